"""Append-only dense indices for users and items."""

from __future__ import annotations

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys.lake.tables import Lake
from recsys.schemas import Table

_CELLS = 256
_CELL, _BEFORE = "_cell", "_before"


def append_new_ids(lake: Lake, table: Table, ids: DataFrame, index: str) -> int:
    """Give each id that the table lacks the next free index and append it, in one commit.

    Args:
        ids: the table's columns but ``index``, its key unique.

    Returns:
        The number of new ids. A second call with the same ids adds none.
    """
    key = table.key[0]
    known = lake.read(table)
    fresh = ids.join(known.select(key), key, "left_anti").persist()
    try:
        if fresh.isEmpty():
            return 0
        highest = known.agg(F.coalesce(F.max(index), F.lit(0))).first()
        assert highest is not None, "an aggregate has a row"
        return lake.append(table, number_rows(fresh, key, index, highest[0])).rows
    finally:
        fresh.unpersist()


def number_rows(rows: DataFrame, key: str, index: str, after: int) -> DataFrame:
    """Add ``index`` = after+1, after+2, …, without bringing all rows to one task.

    Rows are dealt to cells by the hash of their key and counted; a row's index is what the cells
    before hold plus its place in its own. The order depends on the keys alone.
    """
    dealt = rows.withColumn(_CELL, F.pmod(F.xxhash64(key), F.lit(_CELLS)))
    counts = dealt.groupBy(_CELL).count().orderBy(_CELL).collect()
    starts, total = [], after
    for cell, count in counts:
        starts.append((cell, total))
        total += count
    offsets = rows.sparkSession.createDataFrame(starts, f"{_CELL} bigint, {_BEFORE} bigint")
    place = F.row_number().over(Window.partitionBy(_CELL).orderBy(key))
    return (
        dealt.withColumn(index, place)
        .join(F.broadcast(offsets), _CELL)
        .withColumn(index, (F.col(index) + F.col(_BEFORE)).cast("int"))
        .drop(_CELL, _BEFORE)
    )
