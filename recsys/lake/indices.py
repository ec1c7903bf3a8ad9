"""Append-only dense indices for users and items."""

from __future__ import annotations

from pyspark.sql import DataFrame, Row, Window
from pyspark.sql import functions as F

from recsys.lake.local import local_frame
from recsys.lake.tables import Lake
from recsys.schemas import Table

_CELLS = 256
_CELL, _BEFORE = "_cell", "_before"


def append_new_ids(lake: Lake, table: Table, ids: DataFrame, index: str) -> int:
    """Give each id that the table does not hold the next free index and append it, in one commit.

    Args:
        ids: the table's columns but ``index``; its key is unique.

    Returns:
        The number of new ids; no commit where there is none.

    Raises:
        ConflictError: another run has added ids meanwhile; nothing was written.
    """
    version = lake.version(table)
    cell = F.pmod(F.xxhash64(table.key[0]), F.lit(_CELLS))
    fresh = without_known(lake, table, ids, version).withColumn(_CELL, cell).persist()
    try:
        counts = sorted(fresh.groupBy(_CELL).count().collect())
        if not counts:
            return 0
        highest = _highest(lake, table, index, version)
        rows = _number(fresh, table.key[0], index, highest, counts)
        return lake.append(table, rows, after=version).rows
    finally:
        fresh.unpersist()


def _number(fresh: DataFrame, key: str, index: str, highest: int, counts: list[Row]) -> DataFrame:
    """Add ``index`` = highest+1, highest+2, …, without bringing all rows to one task.

    Rows lie in cells by the hash of their key; a row's index is what the cells before hold plus
    its place in its own. The order depends on the keys alone.
    """
    starts, total = [], highest
    for cell, count in counts:
        starts.append((cell, total))
        total += count
    offsets = local_frame(fresh.sparkSession, starts, f"{_CELL} bigint, {_BEFORE} bigint")
    place = F.row_number().over(Window.partitionBy(_CELL).orderBy(key))
    return (
        fresh.withColumn(index, place)
        .join(F.broadcast(offsets), _CELL)
        .withColumn(index, (F.col(index) + F.col(_BEFORE)).cast("int"))
    )


def _highest(lake: Lake, table: Table, index: str, version: int) -> int:
    if version < 0:
        return 0
    # Nothing but the maximum: Delta knows it without reading a row.
    return lake.read(table, version).agg(F.max(index)).collect()[0][0] or 0


def without_known(lake: Lake, table: Table, ids: DataFrame, version: int) -> DataFrame:
    """The rows whose key the table does not hold at ``version`` (-1: there is no table)."""
    if version < 0:
        return ids
    known = lake.read(table, version).select(table.key[0])
    return ids.join(known, table.key[0], "left_anti")
