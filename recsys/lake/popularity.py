"""The catalogue as arrays by item index: ids and popularity."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
from pyspark.sql import functions as F

from recsys import schemas
from recsys.lake.tables import Lake


def read_item_ids(lake: Lake, version: int) -> list[str]:
    """Item ids by index, [items + 1]; entry 0 is an empty string."""
    rows = lake.read(schemas.SILVER_ITEMS, version).select(schemas.ITEM_IDX, schemas.ITEM_ID)
    ids = [""] * (1 + rows.count())
    for index, item_id in rows.toPandas().itertuples(index=False):
        ids[index] = item_id
    return ids


def read_popularity(
    lake: Lake, version: int, num_items: int, last: date, days: int
) -> npt.NDArray[np.float32]:
    """Popularity by index, float32 [items + 1], of the ``days`` days that end with ``last``.

    It is the sum of each day's users. Items without an event in these days follow behind, ordered
    by their older popularity; items without any event up to ``last`` are 0.
    """
    recent = F.col(schemas.EVENT_DATE) > F.lit(last - timedelta(days=days))
    users = F.col(schemas.USERS)
    rows = (
        lake.read(schemas.GOLD_ITEM_STATS, version)
        .where((F.col(schemas.EVENT_DATE) <= F.lit(last)) & (F.col(schemas.ITEM_IDX) <= num_items))
        .groupBy(schemas.ITEM_IDX)
        .agg(
            F.sum(F.when(recent, users).otherwise(0)).alias("recent"),
            F.sum(users).alias("ever"),
        )
        .toPandas()
    )
    popularity = np.zeros(num_items + 1, dtype=np.float32)
    older = rows["ever"] / (rows["ever"].max() + 1.0) if len(rows) else rows["ever"]
    popularity[rows[schemas.ITEM_IDX]] = (rows["recent"] + older).astype(np.float32)
    return popularity
