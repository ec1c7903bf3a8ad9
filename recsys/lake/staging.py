"""Copying pinned training files to a folder that every rank can open.

For stores that Spark reads and Petastorm can't: HDFS needs Hadoop's native client there.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from pyspark.sql import SparkSession

from recsys.errors import LakeError, first_line
from recsys.files import write_atomically


def stage_files(spark: SparkSession, urls: Sequence[str], folder: Path) -> dict[str, str]:
    """Copy files into ``folder``, in Spark tasks; the urls of the copies by those of the files.

    A file is there whole or not at all, and copied again where it is there already. Of one file
    at a time a task holds the bytes.

    Raises:
        LakeError: a copy failed, or this machine does not see what the executors wrote.
    """
    # Partition folders would become columns; names are only names here.
    reader = spark.read.format("binaryFile").option("recursiveFileLookup", "true")
    sources = reader.load([unquote(url) for url in urls])
    copies = sources.select("path", "content").rdd.mapPartitions(_Copy(str(folder)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sizes = dict(copies.collect())
    except Exception as error:
        raise LakeError(
            f"the training files could not be copied: {first_line(error)}",
            where=str(folder),
            do="feed.stage_dir must be writable for the executors and have room for "
            "gold/training_sequences",
        ) from error
    copies_of = {url: folder / _name(unquote(url)) for url in urls}
    for path in copies_of.values():
        if not path.exists() or path.stat().st_size != sizes.get(path.name):
            raise LakeError(
                "a training file that an executor copied is not there for the driver",
                where=str(path),
                do="feed.stage_dir must be a folder that driver, executors and ranks share",
            )
    return {url: path.as_uri() for url, path in copies_of.items()}


@dataclasses.dataclass(frozen=True)
class _Copy:
    """What runs inside a Spark task: (path, content) in, (name, bytes written) out."""

    folder: str

    def __call__(self, rows: Iterable[Any]) -> Iterator[tuple[str, int]]:
        for path, content in rows:
            name = _name(path)
            write_atomically(Path(self.folder) / name, bytes(content))
            yield name, len(content)


def _name(url: str) -> str:
    """A name for the copy: the url's path hashed (Spark writes file:/a and file:///a for one)."""
    return f"{hashlib.sha256(urlparse(url).path.encode()).hexdigest()[:32]}.parquet"
