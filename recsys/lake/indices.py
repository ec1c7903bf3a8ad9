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
    """
    cell = F.pmod(F.xxhash64(table.key[0]), F.lit(_CELLS))
    fresh = without_known(lake, table, ids).withColumn(_CELL, cell).persist()
    try:
        counts = fresh.groupBy(_CELL).count().orderBy(_CELL).collect()
        if not counts:
            return 0
        highest = lake.read(table).agg(F.coalesce(F.max(index), F.lit(0))).collect()[0][0]
        return lake.append(table, _number(fresh, table.key[0], index, highest, counts)).rows
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


def without_known(lake: Lake, table: Table, ids: DataFrame) -> DataFrame:
    """The rows whose key the table does not hold yet."""
    if not lake.exists(table):
        return ids
    return ids.join(lake.read(table).select(table.key[0]), table.key[0], "left_anti")
