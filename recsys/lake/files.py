"""Finding raw files on any file system that Spark can read (local, HDFS, S3)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from pathlib import PurePosixPath

from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import InputError, first_line
from recsys.java import file_system, hadoop_path
from recsys.lake.formats import LogFormat


@dataclass(frozen=True)
class RawFile:
    """One raw file: full ``url``, ``name`` relative to the input, size in bytes, change time.

    ``encoded`` is the url as Spark's file metadata writes it.
    """

    url: str
    encoded: str
    name: str
    size: int
    modified_ms: int


def find_files(
    spark: SparkSession, log: LogFormat, root: str, since: date | None, run_date: date
) -> list[RawFile]:
    """The raw files that the night of ``run_date`` reads, by name.

    A daily log is read from the day after ``since`` (the last night; ``None``: from the start)
    to ``run_date``, so that a missed night is caught up; a snapshot is read whole.

    Raises:
        InputError: the path is missing, is not readable, holds no file, or none for the date.
    """
    base = _require(spark, root)
    if log.layout == "snapshot":
        single = not base.is_folder
        found = base.glob("") if single else base.glob(log.files)
        if not found:
            raise InputError(
                f"no file matches {log.files!r}",
                where=root,
                do="check input.path, or the pattern `files` in the log's format",
            )
        return found
    return _find_daily(base, log, since, run_date)


def _find_daily(base: _Folder, log: LogFormat, since: date | None, run_date: date) -> list[RawFile]:
    dated = re.compile(_dated(log.files))
    found, days = [], []
    for file in base.glob(log.files.replace("{date}", "*")):
        match = dated.match(file.name)
        try:
            day = date.fromisoformat(match[1] if match else "")
        except ValueError:
            continue
        days.append(day)
        if day <= run_date and (since is None or day > since):
            found.append((day, file))
    if not days:
        raise InputError(
            f"no file matches {log.files!r}",
            where=base.root,
            do="an empty folder? check input.path, or the pattern `files` in the log's format",
        )
    if run_date not in {day for day, _ in found}:
        raise InputError(
            f"no data for {run_date}",
            where=f"{base.root}/{log.files.replace('{date}', str(run_date))}",
            do=f"the log has {min(days)} to {max(days)}; wait for the day or choose another --date",
        )
    return [file for _, file in sorted(found, key=lambda pair: pair[1].name)]


def _dated(pattern: str) -> str:
    """A regular expression whose first group is the date in names that match the glob."""
    before, *others = pattern.split("{date}")
    wild = {"*": "[^/]*", "?": "[^/]"}
    parts = ["".join(wild.get(c, re.escape(c)) for c in part) for part in (before, *others)]
    return "^" + parts[0] + r"(\d{4}-\d{2}-\d{2})" + r"\1".join(parts[1:]) + "$"


def log_date(log: LogFormat) -> Column:
    """The day of a daily log that a record's file belongs to, from its ``source_file``."""
    before = log.files.partition("{date}")[0]
    if {"*", "?"} & set(before):
        text = F.regexp_extract(schemas.SOURCE_FILE, _dated(log.files), 1)
    else:
        # The place is known: that costs far less than a pattern, for every record.
        start = len(before.encode()) + 1
        text = bytes_of(F.col(schemas.SOURCE_FILE), start, len("2026-01-01"))
    return F.to_date(text)


def bytes_of(text: Column, start: int, length: int) -> Column:
    """A part of a text whose place is known in bytes (from 1): Spark counts characters else."""
    return F.substring(text.cast("binary"), start, length).cast("string")


@dataclass(frozen=True)
class _Folder:
    spark: SparkSession
    root: str
    is_folder: bool

    def glob(self, pattern: str) -> list[RawFile]:
        """Files (not hidden ones) that match ``pattern`` under the root, by name."""
        path = hadoop_path(self.spark, f"{self.root}/{pattern}" if pattern else self.root)
        fs = file_system(self.spark, path)
        top = str(fs.makeQualified(hadoop_path(self.spark, self.root)).toString()).rstrip("/")
        files = []
        for status in fs.globStatus(path) or []:
            url = str(status.getPath().toString())
            hidden = PurePosixPath(url).name.startswith(("_", "."))
            if status.isFile() and not hidden:
                name = url.removeprefix(top).lstrip("/") or PurePosixPath(url).name
                encoded = str(status.getPath().toUri().toString())
                size, modified = status.getLen(), status.getModificationTime()
                files.append(RawFile(url, encoded, name, size, modified))
        return sorted(files, key=lambda file: file.name)


def _require(spark: SparkSession, root: str) -> _Folder:
    path = hadoop_path(spark, root)
    try:
        status = file_system(spark, path).getFileStatus(path)
        folder = _Folder(spark, root.rstrip("/"), bool(status.isDirectory()))
        folder.glob("*")
        return folder
    except Exception as error:
        if "FileNotFoundException" in str(error):
            raise InputError(
                "the input path does not exist", where=root, do="check --input (input.path)"
            ) from None
        if "Permission denied" in str(error) or "AccessControlException" in str(error):
            raise InputError(
                "no permission to read the input", where=root, do="give the job's user read access"
            ) from None
        raise InputError(
            f"the input can't be read: {first_line(error)}",
            where=root,
            do="check --input (input.path)",
        ) from error


def is_file(spark: SparkSession, root: str) -> bool:
    """Whether the input is one file, not a folder."""
    path = hadoop_path(spark, root)
    return bool(file_system(spark, path).isFile(path))
