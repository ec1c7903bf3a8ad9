"""Many small files become few large ones, by Delta's OPTIMIZE; no row changes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from delta.tables import DeltaTable

from recsys import schemas
from recsys.errors import ConflictError
from recsys.lake.faults import explain_write
from recsys.lake.table_files import LiveFile
from recsys.lake.tables import Lake
from recsys.schemas import Table

Partition = tuple[tuple[str, str | None], ...]

_ATTEMPTS = 3
_AT_ONCE = 100
"""Partitions in one filter: its text grows with them."""
_SMALLEST = "spark.databricks.delta.optimize.minFileSize"
_LARGEST = "spark.databricks.delta.optimize.maxFileSize"


@dataclass(frozen=True)
class Work:
    """Partitions of one table to compact, alike in what counts as a small file there.

    Attributes:
        partitions: each with its small files.
        small_bytes: a file below is small.
        largest_bytes: of the files made (of training files: of what one task rewrites).
        rows: most rows a file, one row group each; ``None``: no such bound.
    """

    partitions: dict[Partition, list[LiveFile]]
    small_bytes: int
    largest_bytes: int
    rows: int | None = None

    @property
    def files(self) -> int:
        return sum(len(files) for files in self.partitions.values())


@dataclass(frozen=True)
class Compacted:
    """Files before and after, bytes rewritten; ``lost_to_others``: another writer won each try."""

    removed: int = 0
    added: int = 0
    bytes: int = 0
    lost_to_others: bool = False


def plan_compaction(lake: Lake, table: Table, files: Sequence[LiveFile]) -> list[Work]:
    """The partitions with at least ``lake.compact_from_files`` small files.

    A file is small below half of ``lake.file_mb``, a training file below half of the rows that
    gold writes: one row group a file is what the feed and the ranks rely on. What each night
    writes anew is left out.
    """
    if table.rewritten:
        return []
    partitions: dict[Partition, list[LiveFile]] = defaultdict(list)
    for file in files:
        if table.rewritten_part not in file.partition:
            partitions[file.partition].append(file)
    if table.name == schemas.GOLD_TRAINING_SEQUENCES.name:
        return _plan_training(lake, partitions)
    largest = lake.settings.lake.file_mb << 20
    few = lake.settings.lake.compact_from_files
    small = {p: [f for f in fs if f.size < largest // 2] for p, fs in partitions.items()}
    chosen = {p: fs for p, fs in small.items() if len(fs) >= few}
    return [Work(chosen, largest // 2, largest)] if chosen else []


def _plan_training(lake: Lake, partitions: dict[Partition, list[LiveFile]]) -> list[Work]:
    """A partition each: files of as many rows differ in bytes from bucket to bucket."""
    gold = lake.settings.gold
    total = sum(file.rows or 0 for files in partitions.values() for file in files)
    rows = max(1, min(gold.rows_per_row_group, total // gold.min_row_groups))
    few, largest = lake.settings.lake.compact_from_files, lake.settings.lake.file_mb << 20
    found = []
    for partition, files in sorted(partitions.items(), key=str):
        if any(file.rows is None for file in files):
            continue
        held = sum(file.rows or 0 for file in files)
        bytes_a_row = sum(file.size for file in files) / max(1, held)
        small_bytes = int(bytes_a_row * rows / 2)
        small = [file for file in files if file.size < small_bytes]
        # As many files may be needed for so many rows: then nothing would be won.
        fewer = -(-sum(file.rows or 0 for file in small) // rows)
        if len(small) >= max(few, 2 * fewer):
            found.append(Work({partition: small}, small_bytes, largest, rows))
    return found


def compact(
    lake: Lake, table: Table, plan: Sequence[Work], say: Callable[[str], None] = print
) -> Compacted:
    """Carry out a plan. Another writer that is faster wins; after three tries the rest stays.

    Raises:
        LakeError: OPTIMIZE failed for another reason; the table is as it was.
    """
    total = Compacted()
    for work in plan:
        partitions = list(work.partitions)
        for at in range(0, len(partitions), _AT_ONCE):
            done = _try(lake, table, work, partitions[at : at + _AT_ONCE], say)
            total = Compacted(
                total.removed + done.removed,
                total.added + done.added,
                total.bytes + done.bytes,
                total.lost_to_others or done.lost_to_others,
            )
    return total


def _try(
    lake: Lake, table: Table, work: Work, partitions: list[Partition], say: Callable[[str], None]
) -> Compacted:
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _optimize(lake, table, work, partitions)
        except Exception as error:
            explained = explain_write(table.name, lake.path(table), error)
            if not isinstance(explained, ConflictError):
                raise explained from error
            say(f"  {table.name}: another run wrote first ({attempt} of {_ATTEMPTS} tries)")
    return Compacted(lost_to_others=True)


def _optimize(lake: Lake, table: Table, work: Work, partitions: list[Partition]) -> Compacted:
    # A session of its own: what is set for this call is seen by nobody else.
    session = lake.spark.newSession()
    session.conf.set(_SMALLEST, str(work.small_bytes))
    session.conf.set(_LARGEST, str(work.largest_bytes))
    if table.compression is not None:
        session.conf.set("spark.sql.parquet.compression.codec", table.compression)
    if work.rows is not None:
        session.conf.set("spark.sql.files.maxRecordsPerFile", str(work.rows))
        # A row group never ends before the file does.
        session.conf.set("parquet.block.size", str(1 << 30))
    builder = DeltaTable.forPath(session, lake.path(table)).optimize()
    if table.partition_by:
        builder = builder.where(" OR ".join(_condition(partition) for partition in partitions))
    done = (
        builder.executeZOrderBy(*table.zorder_by)
        if table.zorder_by
        else (builder.executeCompaction())
    )
    metrics = done.select("metrics.*").collect()[0]
    removed, added = metrics["numFilesRemoved"], metrics["numFilesAdded"]
    return Compacted(removed, added, metrics["filesRemoved"]["totalSize"] or 0)


def _condition(partition: Partition) -> str:
    parts = []
    for column, value in partition:
        text = (value or "").replace("\\", "\\\\").replace("'", "\\'")
        parts.append(f"`{column}` IS NULL" if value is None else f"`{column}` = '{text}'")
    return "(" + " AND ".join(parts) + ")"
