"""Lists as Parquet or JSON lines on any file system that Spark writes to.

``PATH/version=VERSION/``  the files of a version
``PATH/_CURRENT.json``     the folder in force: {version, folder, run_date, model_version, lists}
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pyspark.sql import SparkSession

from recsys import schemas
from recsys.config import FileTarget, local_lake_path
from recsys.errors import ExportError, first_line
from recsys.export.lists import Lists
from recsys.java import file_system, hadoop_path, java_class, read_text

Result = TypeVar("Result")

POINTER = "_CURRENT.json"
_FOLDER = "version="
_OBJECT_STORES = ("s3a", "gs")
"""There a rename is a copy, and an object appears at once when it is closed."""


class FileStore:
    """A target of kind parquet or jsonl."""

    def __init__(self, spark: SparkSession, target: FileTarget) -> None:
        self.place = target.path
        self._spark = spark
        self._format = {"parquet": "parquet", "jsonl": "json"}[target.kind]
        self._root = target.path.rstrip("/")

    def current(self) -> str | None:
        def read() -> str | None:
            path = hadoop_path(self._spark, f"{self._root}/{POINTER}")
            system = file_system(self._spark, path)
            if not system.exists(path):
                return None
            return str(json.loads(read_text(self._spark, system.open(path)))[schemas.VERSION])

        return self._explained(read)

    def count(self, version: str) -> int:
        """From the files themselves: Parquet's footers, or the number of lines."""

        def count() -> int:
            folder = hadoop_path(self._spark, self._folder(version))
            if not file_system(self._spark, folder).exists(folder):
                return 0
            names = self._data_files(folder)
            if not names:
                return 0
            reader = self._spark.read
            rows = reader.parquet(*names) if self._format == "parquet" else reader.text(names)
            return rows.count()

        return self._explained(count)

    def write(self, lists: Lists) -> None:
        def write() -> None:
            writer = lists.rows.write.mode("overwrite").format(self._format)
            writer.save(self._folder(lists.version))

        self._explained(write)

    def make_current(self, lists: Lists) -> None:
        """Replace the pointer's file, which readers see whole, old or new."""
        content = {
            schemas.VERSION: lists.version,
            "folder": f"{_FOLDER}{lists.version}",
            schemas.RUN_DATE: str(lists.run_date),
            schemas.MODEL_VERSION: lists.model_version,
            schemas.LISTS: lists.count,
        }
        text = json.dumps(content, indent=2) + "\n"
        self._explained(lambda: self._replace(f"{self._root}/{POINTER}", text))

    def versions(self) -> list[str]:
        def list_folders() -> list[str]:
            root = hadoop_path(self._spark, f"{self._root}/{_FOLDER}*")
            found = file_system(self._spark, root).globStatus(root) or []
            return sorted(str(one.getPath().getName()).removeprefix(_FOLDER) for one in found)

        return self._explained(list_folders)

    def remove(self, version: str) -> None:
        def remove() -> None:
            folder = hadoop_path(self._spark, self._folder(version))
            file_system(self._spark, folder).delete(folder, True)

        if self.current() != version:
            self._explained(remove)

    def _folder(self, version: str) -> str:
        return f"{self._root}/{_FOLDER}{version}"

    def _data_files(self, folder: Any) -> list[str]:
        found = file_system(self._spark, folder).listStatus(folder)
        paths = [one.getPath() for one in found if not str(one.getPath().getName()).startswith("_")]
        return [str(path.toString()) for path in paths]

    def _replace(self, name: str, text: str) -> None:
        local = local_lake_path(name)
        if local is not None:
            _replace_local(local, text)
            return
        path = hadoop_path(self._spark, name)
        system = file_system(self._spark, path)
        if system.getScheme() in _OBJECT_STORES:
            _put(system, path, text)
            return
        new = hadoop_path(self._spark, f"{name}.new")
        _put(system, new, text)
        context = java_class(self._spark, "org.apache.hadoop.fs.FileContext")
        rename = java_class(self._spark, "org.apache.hadoop.fs.Options$Rename")
        options = self._spark.sparkContext._gateway.new_array(rename, 1)  # type: ignore[union-attr]
        options[0] = rename.OVERWRITE
        configuration = self._spark.sparkContext._jsc.hadoopConfiguration()
        context.getFileContext(path.toUri(), configuration).rename(new, path, options)

    def _explained(self, act: Callable[[], Result]) -> Result:
        try:
            return act()
        except Exception as error:
            raise ExportError(
                f"the files can't be read or written: {first_line(error)}",
                where=self.place,
                do="check path, its file system's space and this job's rights there",
            ) from error


def _put(system: Any, path: Any, text: str) -> None:
    stream = system.create(path, True)
    try:
        stream.write(bytearray(text.encode()))
    finally:
        stream.close()


def _replace_local(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    with new.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
