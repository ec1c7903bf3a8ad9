"""What a table is made of, and the pinned files where Spark and training meet."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Column:
    """One column: its name, Spark SQL type and meaning (with the unit where it has one)."""

    name: str
    type: str
    meaning: str


@dataclass(frozen=True)
class Table:
    """One table of the lake.

    ``name`` is also the path under ``lake.root``; ``key`` is unique within the table. Delta keeps
    the smallest and largest value a file of ``filtered_by`` alone: what no reader filters by would
    cost time, and put pieces of raw records into the table's log.

    ``retention_days``: partitions so many days older than the table's newest go at the next
    housekeeping (``lake.retention_days`` overrides it); ``None`` keeps all. ``rewritten``: each
    night writes the whole table, so that compacting it would be in vain; ``rewritten_part`` says
    so of the partitions with one value of a column. ``zorder_by``: compaction lays rows that are
    near in these columns into the same file (of ``filtered_by``, or no reader gains by it).
    ``compression``: codec of its Parquet files; ``None``: the session's.
    """

    name: str
    meaning: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    partition_by: tuple[str, ...] = field(default=())
    filtered_by: tuple[str, ...] = field(default=())
    retention_days: int | None = None
    rewritten: bool = False
    rewritten_part: tuple[str, str] | None = None
    zorder_by: tuple[str, ...] = ()
    compression: str | None = None

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def ddl(self) -> str:
        return ", ".join(f"`{column.name}` {column.type}" for column in self.columns)


@dataclass(frozen=True)
class DataFile:
    """One Parquet file (one row group) of a pinned table version.

    Attributes:
        url: ``file:///…``, ``hdfs://…`` or ``s3a://…``, percent-encoded as Spark names files.
        split: ``train`` or ``validation``.
        bucket: padded length of its arrays.
        rows: number of rows.
    """

    url: str
    split: str
    bucket: int
    rows: int


@dataclass(frozen=True)
class PinnedTable:
    """Where Spark and training meet: the files of one version of gold/training_sequences.

    ``files`` come in an order that depends only on their content, never on their names, so that
    a rebuilt but equal table trains to the same weights.
    """

    name: str
    version: int
    files: tuple[DataFile, ...]
