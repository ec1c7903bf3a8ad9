"""The catalogue as arrays by item index: ids and popularity."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import functions as F

from recsys import schemas
from recsys.lake.tables import Lake


def read_item_ids(lake: Lake, version: int) -> pa.Array:
    """Item ids by index, string [items + 1]; entry 0 is an empty string."""
    rows = lake.read(schemas.SILVER_ITEMS, version).select(schemas.ITEM_IDX, schemas.ITEM_ID)
    found = rows.toArrow()
    places = np.empty(found.num_rows, dtype=np.int64)
    places[found.column(schemas.ITEM_IDX).to_numpy() - 1] = np.arange(found.num_rows)
    ids = found.column(schemas.ITEM_ID).combine_chunks().take(pa.array(places))
    return pa.concat_arrays([pa.array([""], ids.type), ids])


def hash_items(lake: Lake, version: int, num_items: int) -> str:
    """A hash of the first ``num_items`` items and their numbers: of no other lake's, surely."""
    first = lake.read(schemas.SILVER_ITEMS, version).where(F.col(schemas.ITEM_IDX) <= num_items)
    row = F.xxhash64(schemas.ITEM_IDX, schemas.ITEM_ID)
    found = first.agg(F.count(F.lit(1)), F.bit_xor(row)).first()
    assert found is not None, "an aggregate has a row"
    return f"{found[0]}-{(found[1] or 0) % 2**64:016x}"


@dataclass(frozen=True)
class Popularity:
    """Popularity by item index, float32 [items + 1]; 0 is an item without any event so far.

    Attributes:
        ever: sum of each day's users over all days.
        recent: the same over the last days. Items without an event in these follow behind (below
            1), ordered by ``ever``.
    """

    ever: npt.NDArray[np.float32]
    recent: npt.NDArray[np.float32]


def read_popularity(lake: Lake, version: int, num_items: int, last: date, days: int) -> Popularity:
    """Popularity as of the end of ``last`` (no later event counts), recent over ``days`` days."""
    is_recent = F.col(schemas.EVENT_DATE) > F.lit(last - timedelta(days=days))
    users = F.col(schemas.USERS)
    rows = (
        lake.read(schemas.GOLD_ITEM_STATS, version)
        .where((F.col(schemas.EVENT_DATE) <= F.lit(last)) & (F.col(schemas.ITEM_IDX) <= num_items))
        .groupBy(schemas.ITEM_IDX)
        .agg(
            F.sum(F.when(is_recent, users).otherwise(0)).alias("recent"), F.sum(users).alias("ever")
        )
        .toArrow()
    )
    ever, recent = (np.zeros(num_items + 1, dtype=np.float32) for _ in range(2))
    items = rows.column(schemas.ITEM_IDX).to_numpy()
    ever[items], recent[items] = (rows.column(name).to_numpy() for name in ("ever", "recent"))
    return Popularity(ever, recent + ever / (ever.max() + 1.0))
