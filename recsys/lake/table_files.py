"""The files behind a table: what lies on disk, what a version refers to, what the log holds."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys.errors import LakeError
from recsys.java import delta_log, file_system, hadoop_path, java_class, newest_snapshot
from recsys.lake.tables import Lake
from recsys.schemas import Table

_COMMIT = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint(\..+)?\.parquet")
_GLOB = re.compile(r"([*?\[\]{}\\])")
_DELETION_VECTOR = "deletion_vector_"


@dataclass(frozen=True)
class StoredFile:
    """A data file on disk: name under the table, size in bytes, time of change (ms, Unix)."""

    name: str
    size: int
    modified_ms: int


@dataclass(frozen=True)
class LiveFile:
    """A data file of the newest version.

    Attributes:
        name: under the table.
        partition: partition column to value, as Delta writes it; ``None`` for null.
        size: in bytes.
        rows: ``None`` where the writer has left no statistics.
        deleted_rows: rows that a deletion vector marks as gone.
    """

    name: str
    partition: tuple[tuple[str, str | None], ...]
    size: int
    rows: int | None
    deleted_rows: int


@dataclass(frozen=True)
class Log:
    """What the table's log can still tell: version to time of commit, and the oldest version."""

    commits: dict[int, datetime]
    oldest: int

    @property
    def newest(self) -> int:
        return max(self.commits, default=-1)

    def current_at(self, moment: datetime) -> int:
        """The version that was the newest one at ``moment``, else the oldest that is left."""
        before = [v for v, time in self.commits.items() if time <= moment and v >= self.oldest]
        return max(before, default=self.oldest)


def read_log(lake: Lake, table: Table) -> Log:
    """The commits and checkpoints that lie in ``_delta_log``.

    A version can be read if every commit since a checkpoint (or since version 0) is there.
    """
    commits, checkpoints = {}, []
    for status in _list(lake, f"{lake.path(table)}/_delta_log"):
        name = str(status.getPath().getName())
        if found := _COMMIT.fullmatch(name):
            seconds = status.getModificationTime() / 1000
            commits[int(found[1])] = datetime.fromtimestamp(seconds, UTC)
        elif found := _CHECKPOINT.fullmatch(name):
            checkpoints.append(int(found[1]))
    oldest = 0 if 0 in commits else min(checkpoints, default=min(commits, default=0))
    return Log(commits, oldest)


def _list(lake: Lake, folder: str) -> list[Any]:
    path = hadoop_path(lake.spark, folder)
    system = file_system(lake.spark, path)
    return list(system.listStatus(path)) if system.exists(path) else []


def as_written(path: str) -> str:
    """A path that Spark takes as it is: its readers expand patterns otherwise."""
    return _GLOB.sub(r"\\\1", path)


def log_files(lake: Lake, table: Table) -> list[str]:
    """Paths of the commits and checkpoints in ``_delta_log``."""
    found = (str(status.getPath()) for status in _list(lake, f"{lake.path(table)}/_delta_log"))
    return sorted(path for path in found if path.endswith((".json", ".parquet")))


def list_files(lake: Lake, table: Table) -> list[StoredFile]:
    """Every data file under the table's folder, whichever version it belongs to, or none.

    Spark lists them, in several tasks where there are many, and opens none.
    """
    base = base_path(lake, table)
    files = (
        lake.spark.read.format("binaryFile")
        .option("recursiveFileLookup", "true")
        .load(as_written(lake.path(table)))
        .select("path", "length", F.unix_millis("modificationTime"))
        .collect()
    )
    return [
        StoredFile(name, size, modified)
        for path, size, modified in files
        # Delta's deletion vectors are small, and which version needs them is not in their name.
        if not (name := _under(base, path)).rpartition("/")[2].startswith(_DELETION_VECTOR)
    ]


def files_of(lake: Lake, table: Table, version: int) -> set[str]:
    """Names of the data files of one version.

    Raises:
        LakeError: the version is no longer in the log.
    """
    base = base_path(lake, table)
    try:
        return {_under(base, path) for path in lake.read(table, version).inputFiles()}
    except LakeError:
        raise
    except Exception as error:
        raise LakeError(
            f"version {version} of table {table.name} can't be read", where=lake.path(table)
        ) from error


def added_since(lake: Lake, table: Table, log: Log, version: int) -> set[str]:
    """Names of the data files that commits after ``version`` have added."""
    later = sorted(v for v in log.commits if v > version)
    if not later:
        return set()
    folder = as_written(f"{lake.path(table)}/_delta_log")
    lines = lake.spark.read.schema("add struct<path: string>").json(
        [f"{folder}/{v:020d}.json" for v in later]
    )
    rows = lines.where("add is not null").select("add.path").collect()
    return {unquote(row[0]) for row in rows}


def live_files(lake: Lake, table: Table) -> list[LiveFile]:
    """The data files of the newest version, by name."""
    snapshot = newest_snapshot(lake.spark, delta_log(lake.spark, lake.path(table)))
    files = DataFrame(snapshot.allFiles().toDF(), lake.spark)
    rows = files.select(
        "path",
        "partitionValues",
        "size",
        F.get_json_object("stats", "$.numRecords").cast("bigint"),
        F.coalesce("deletionVector.cardinality", F.lit(0)),
    ).collect()
    return sorted(
        (
            LiveFile(unquote(path), tuple(sorted(values.items())), size, count, deleted)
            for path, values, size, count, deleted in rows
        ),
        key=lambda file: file.name,
    )


def count_row_groups(lake: Lake, table: Table, names: Iterable[str]) -> list[int]:
    """Row groups of each of the files, from their Parquet footers, on any file system."""
    conf = lake.spark.sparkContext._jsc.hadoopConfiguration()
    parquet = java_class(lake.spark, "org.apache.parquet.hadoop.ParquetFileReader")
    file = java_class(lake.spark, "org.apache.parquet.hadoop.util.HadoopInputFile")
    found = []
    for name in names:
        path = hadoop_path(lake.spark, f"{lake.path(table)}/{name}")
        reader = parquet.open(file.fromPath(path, conf))
        try:
            found.append(int(reader.getRowGroups().size()))
        finally:
            reader.close()
    return found


def base_path(lake: Lake, table: Table) -> str:
    """The table's folder as Hadoop writes it in full, e.g. ``file:/data/lake/gold/top_n``."""
    path = hadoop_path(lake.spark, lake.path(table))
    return str(file_system(lake.spark, path).makeQualified(path).toString())


def _under(base: str, path: str) -> str:
    """The file's name under the table; schemes may have one or three slashes.

    Raises:
        LakeError: the file lies elsewhere, so that nobody can say which files are in use.
    """
    start = _without_scheme(base) + "/"
    plain = _without_scheme(path)
    if not plain.startswith(start):
        raise LakeError(
            f"a file of the table lies outside of it: {path}",
            where=base,
            do="a cloned table? housekeeping leaves it alone",
        )
    return plain.removeprefix(start)


def _without_scheme(path: str) -> str:
    return path.partition(":")[2].lstrip("/")
