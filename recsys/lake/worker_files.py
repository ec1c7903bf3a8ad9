"""Parquet files that Spark's workers write with Arrow, into a table's folder.

Spark writes nested Parquet value by value, which takes longer than to make the values. A file is a
part of the table once a commit names it (``added_files.py``); one that none names, as its task was
killed or done twice, goes with the next vacuum, like those of Spark's own tasks.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem, LocalFileSystem

from recsys.s3 import open_s3

FILES_DDL = "file string, bytes bigint, rows bigint, stats string"
"""A row a file: its name in the folder, its size, its rows, what Delta's log says of its values."""
_LARGEST_DICTIONARY = 1 << 30
"""Bytes. Above a limit Arrow would write words after all; who gives a dictionary wants numbers."""
SCHEMES = ("file", "s3a", "s3")
"""File systems that Arrow writes to without more to be installed."""


@dataclass(frozen=True)
class FileFolder:
    """Where files go, and how they are written.

    Attributes:
        url: of the folder: ``file:/…`` (as each executor sees it) or ``s3a://bucket/…``.
        store: endpoint and region of the S3 store, where they are not Amazon's.
        compression: Parquet's name of a codec.
        dictionaries: leaf columns of few values, which Arrow finds and numbers; what comes as a
            dictionary is written as one besides.
        filtered_by: text columns whose smallest and largest value the log is told.
    """

    url: str
    store: Mapping[str, str] = field(default_factory=dict)
    compression: str = "zstd"
    dictionaries: Sequence[str] = ()
    filtered_by: Sequence[str] = ()

    def write(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """One file of all ``batches``, a row group each; none where there is no row.

        Raises:
            OSError: it could not be written; nothing of it is left.
        """
        system, folder = _open(self.url, self.store)
        name = f"part-{uuid.uuid4().hex}.{self.compression}.parquet"
        path, writer, ranges = f"{folder}/{name}", None, _Ranges(self.filtered_by)
        try:
            for batch in batches:
                if not batch.num_rows:
                    continue
                if writer is None:
                    if isinstance(system, LocalFileSystem):  # S3 has no folders
                        system.create_dir(folder, recursive=True)
                    writer = pq.ParquetWriter(
                        path, batch.schema, filesystem=system, compression=self.compression,
                        use_dictionary=[*self.dictionaries, *_find_numbered(batch.schema)],
                        dictionary_pagesize_limit=_LARGEST_DICTIONARY,
                        # Nobody looks for an item by a file's smallest and largest one.
                        write_statistics=list(self.filtered_by),
                        store_schema=False,  # else Arrow's readers are given numbered words
                    )  # fmt: skip
                writer.write_batch(batch)
                ranges.add(batch)
            if writer is None:
                return
            writer.close()
        except BaseException:
            with contextlib.suppress(OSError):  # what can't be removed goes with the next vacuum
                system.delete_file(path)
            raise
        size = system.get_file_info(path).size
        file = {"file": name, "bytes": size, "rows": ranges.rows, "stats": ranges.to_json()}
        yield pa.RecordBatch.from_pylist([file])


def _find_numbered(schema: pa.Schema) -> list[str]:
    """Leaf columns that are dictionaries, by Parquet's names of them."""
    found = []

    def look(name: str, kind: pa.DataType) -> None:
        if pa.types.is_dictionary(kind):
            found.append(name)
        elif pa.types.is_list(kind):
            look(f"{name}.list.element", kind.value_type)
        elif pa.types.is_struct(kind):
            for part in kind:
                look(f"{name}.{part.name}", part.type)

    for column in schema:
        look(column.name, column.type)
    return found


class _Ranges:
    """What Delta keeps of a file: its rows, and the range of values that readers filter by.

    Source: the Delta transaction protocol, "Per-file statistics".
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self.rows = 0
        self._columns = columns
        self._least: dict[str, Any] = {}
        self._most: dict[str, Any] = {}

    def add(self, batch: pa.RecordBatch) -> None:
        self.rows += batch.num_rows
        for name in self._columns:
            own = pc.min_max(batch.column(name)).as_py()
            self._least[name] = min(self._least.get(name, own["min"]), own["min"])
            self._most[name] = max(self._most.get(name, own["max"]), own["max"])

    def to_json(self) -> str:
        nulls = dict.fromkeys(self._columns, 0)
        return json.dumps(
            {"numRecords": self.rows, "minValues": self._least, "maxValues": self._most,
             "nullCount": nulls}
        )  # fmt: skip


def _open(url: str, store: Mapping[str, str]) -> tuple[FileSystem, str]:
    """The file system of a url and the path there."""
    if url.startswith("file:"):
        return LocalFileSystem(), url.removeprefix("file:").replace("///", "/", 1)
    return open_s3(store), url.partition("://")[2]
