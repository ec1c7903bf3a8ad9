"""Lists as Parquet or JSON lines on any file system that Spark writes to.

``PATH/version=VERSION.WRITE/``  the files of a version
``PATH/_CURRENT.json``           what is in force: {version, folder, run_date, model_version, lists}

Each write has a folder of its own, so no export touches files of another that runs at the same
time, or files that readers follow. What a cut-off one leaves goes when its version goes.
"""

from __future__ import annotations

import json
import os
import uuid
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
_FOLDER, _WRITE = "version=", "."
_OBJECT_STORES = ("s3a", "gs")
"""There a rename is a copy, and an object appears at once when it is closed."""


class FileStore:
    """A target of kind parquet or jsonl."""

    def __init__(self, spark: SparkSession, target: FileTarget) -> None:
        self.place = target.path
        self._spark = spark
        self._format = {"parquet": "parquet", "jsonl": "json"}[target.kind]
        self._root = target.path.rstrip("/")
        self._written: dict[str, str] = {}
        """Version to the folder that this store has written."""

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
        return max(self._counts(version).values(), default=0)

    def write(self, lists: Lists) -> None:
        name = f"{_FOLDER}{lists.version}{_WRITE}{uuid.uuid4().hex[:8]}"
        writer = lists.rows.write.format(self._format)
        self._explained(lambda: writer.save(f"{self._root}/{name}"))
        self._written[lists.version] = name

    def make_current(self, lists: Lists) -> None:
        """Replace the pointer's file, which readers see whole, old or new."""
        counts = self._counts(lists.version)
        whole = [folder for folder, found in counts.items() if found == lists.count]
        if not whole:
            raise ExportError(
                f"{max(counts.values(), default=0):,} of {lists.count:,} lists are left",
                where=f"{self.place}, version {lists.version}",
                do="another export has removed them: run this one again",
            )
        content = {
            schemas.VERSION: lists.version,
            "folder": whole[0],
            schemas.RUN_DATE: str(lists.run_date),
            schemas.MODEL_VERSION: lists.model_version,
            schemas.LISTS: lists.count,
        }
        text = json.dumps(content, indent=2) + "\n"
        self._explained(lambda: self._replace(f"{self._root}/{POINTER}", text))

    def versions(self) -> list[str]:
        return sorted({_version_of(folder) for folder in self._explained(self._folders)})

    def remove(self, version: str) -> None:
        def remove() -> None:
            for name in self._folders(version):
                folder = hadoop_path(self._spark, f"{self._root}/{name}")
                file_system(self._spark, folder).delete(folder, True)

        if self.current() != version:
            self._explained(remove)

    def _folders(self, version: str | None = None) -> list[str]:
        """Names of the folders of a version, or of all."""
        pattern = hadoop_path(self._spark, f"{self._root}/{_FOLDER}*")
        found = file_system(self._spark, pattern).globStatus(pattern) or []
        names = sorted(str(one.getPath().getName()) for one in found)
        return [name for name in names if version in (None, _version_of(name))]

    def _counts(self, version: str) -> dict[str, int]:
        """Folder to its lists: of the one that was just written, or else of all of a version."""

        def count() -> dict[str, int]:
            own = self._written.get(version)
            names = self._folders(version)
            return {name: self._count(name) for name in names if own in (None, name)}

        return self._explained(count)

    def _count(self, name: str) -> int:
        files = self._data_files(hadoop_path(self._spark, f"{self._root}/{name}"))
        if not files:
            return 0
        reader = self._spark.read
        rows = reader.parquet(*files) if self._format == "parquet" else reader.text(files)
        return rows.count()

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
        new = hadoop_path(self._spark, f"{name}.{uuid.uuid4().hex}")
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


def _version_of(folder: str) -> str:
    return folder.removeprefix(_FOLDER).partition(_WRITE)[0]


def _put(system: Any, path: Any, text: str) -> None:
    stream = system.create(path, True)
    try:
        stream.write(bytearray(text.encode()))
    finally:
        stream.close()


def _replace_local(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with new.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
