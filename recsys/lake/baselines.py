"""Spark ALS, the baseline that every report shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.config import Als
from recsys.lake.tables import Lake


@dataclass(frozen=True)
class Factors:
    """Matrix factorisation: ``users[user_idx]`` and ``items[item_idx]``, float32 rows.

    Users and items without training events have zero rows.
    """

    users: npt.NDArray[np.float32]
    items: npt.NDArray[np.float32]


def train_als(
    lake: Lake, windows_version: int, als: Als, num_users: int, num_items: int
) -> Factors:
    """Implicit-feedback ALS (Hu, Koren and Volinsky 2008) on the windows that the model trains on.

    A pair's weight is its number of events; the seed is fixed.
    """
    gap = F.size(schemas.ITEMS) - F.col(schemas.LENGTH) + F.col(schemas.CONTEXT)
    own = F.slice(schemas.ITEMS, gap + 1, F.size(schemas.ITEMS))
    pairs = (
        lake.read(schemas.GOLD_TRAINING_SEQUENCES, windows_version)
        .select(schemas.USER_IDX, F.explode(own).alias(schemas.ITEM_IDX))
        .groupBy(schemas.USER_IDX, schemas.ITEM_IDX)
        .agg(F.count(F.lit(1)).cast("float").alias(schemas.EVENTS))
    )
    return fit_als(pairs, als, num_users, num_items)


def fit_als(pairs: DataFrame, als: Als, num_users: int, num_items: int) -> Factors:
    """The same on pairs (user_idx, item_idx, events)."""
    model = ALS(
        rank=als.rank,
        maxIter=als.iterations,
        regParam=als.regularization,
        alpha=als.alpha,
        implicitPrefs=True,
        userCol=schemas.USER_IDX,
        itemCol=schemas.ITEM_IDX,
        ratingCol=schemas.EVENTS,
        numUserBlocks=2,
        numItemBlocks=2,
        seed=1,
    ).fit(pairs)
    return Factors(
        _dense(model.userFactors.toPandas(), num_users, als.rank),
        _dense(model.itemFactors.toPandas(), num_items, als.rank),
    )


def _dense(factors, highest: int, rank: int) -> npt.NDArray[np.float32]:  # type: ignore[no-untyped-def]
    table = np.zeros((highest + 1, rank), dtype=np.float32)
    if len(factors):
        table[factors["id"].to_numpy()] = np.stack(factors["features"].to_numpy())
    return table
