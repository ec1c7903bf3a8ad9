"""A night's lists beside those published before: figures of both, measured by Spark."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.lake.publish import Published
from recsys.lake.tables import Lake
from recsys.ranking.exposure import Exposure, count_exposure

_NOW, _BEFORE = "now", "before"


@dataclass(frozen=True)
class Night:
    """Lists of one night.

    Attributes:
        run_date: the night.
        model_version: that made them.
        lists: how many.
        exposure: of all items that the night knew.
    """

    run_date: date
    model_version: str
    lists: int
    exposure: Exposure


@dataclass(frozen=True)
class Comparison:
    """Two nights' lists.

    Attributes:
        now: the night to be judged.
        before: the one that was published before it; None where there is none.
        overlaps: of sampled users that both have, the share of the earlier list's items that are
            still in the list, float64 [users].
        scores_now: scores of the model's entries in the lists of sampled users, float32.
        scores_before: the same of the earlier night.
    """

    now: Night
    before: Night | None
    overlaps: npt.NDArray[np.float64]
    scores_now: npt.NDArray[np.float32]
    scores_before: npt.NDArray[np.float32]


def compare_lists(
    lake: Lake, now: Published, before: Published | None, sample_users: int
) -> Comparison:
    """Measure a night's lists, and those published before, in two queries.

    Args:
        now: the night as it would be published.
        before: what readers have now.
        sample_users: about so many users' lists are compared one by one.
    """
    nights = {_NOW: now} if before is None else {_NOW: now, _BEFORE: before}
    lists = {name: _lists_of(lake, night) for name, night in nights.items()}
    shown = _count_shown(lists)
    described = {
        name: Night(
            night.run_date,
            night.model_version,
            night.lists,
            count_exposure(
                shown.get(name, {}), lake.read(schemas.SILVER_ITEMS, night.items_version).count()
            ),
        )
        for name, night in nights.items()
    }
    slices = max(1, now.lists // sample_users)
    sampled = {
        name: part.where(F.pmod(F.xxhash64(schemas.USER_ID), F.lit(slices)) == 0)
        for name, part in lists.items()
    }
    overlaps, scores_now, scores_before = _read_sample(sampled)
    return Comparison(described[_NOW], described.get(_BEFORE), overlaps, scores_now, scores_before)


def _lists_of(lake: Lake, night: Published) -> DataFrame:
    lists = lake.read(schemas.GOLD_TOP_N, night.top_n_version)
    return lists.where(F.col(schemas.RUN_DATE) == F.lit(night.run_date))


def _count_shown(lists: dict[str, DataFrame]) -> dict[str, dict[int, int]]:
    """By night: in how many lists (1 or more), so many items."""
    nights = [
        part.select(
            F.lit(name).alias("night"),
            F.explode(f"{schemas.RECOMMENDATIONS}.{schemas.ITEM_ID}").alias(schemas.ITEM_ID),
        )
        for name, part in lists.items()
    ]
    rows = nights[0]
    for other in nights[1:]:
        rows = rows.unionAll(other)
    # Few rows are left: of N places in lists there are at most sqrt(2 N) different counts.
    counted = (
        rows.groupBy("night", schemas.ITEM_ID)
        .agg(F.count(F.lit(1)).alias("times"))
        .groupBy("night", "times")
        .agg(F.count(F.lit(1)).alias("items"))
    )
    found: dict[str, dict[int, int]] = {}
    for row in counted.collect():
        found.setdefault(row["night"], {})[row["times"]] = row["items"]
    return found


def _read_sample(
    lists: dict[str, DataFrame],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    entries = {
        name: part.select(schemas.USER_ID, F.col(schemas.RECOMMENDATIONS).alias(name))
        for name, part in lists.items()
    }
    if _BEFORE not in entries:
        now = entries[_NOW].select(_model_scores(_NOW)).toArrow().column(0)
        none = np.zeros(0)
        return none, _flat(now), none.astype(np.float32)
    ids = {name: F.col(f"{name}.{schemas.ITEM_ID}") for name in entries}
    kept = F.size(F.array_intersect(ids[_NOW], ids[_BEFORE])) / F.size(ids[_BEFORE])
    both = entries[_NOW].join(entries[_BEFORE], schemas.USER_ID)
    rows = (
        both.where(F.size(ids[_BEFORE]) > 0)
        .select(kept.alias("kept"), _model_scores(_NOW), _model_scores(_BEFORE))
        .toArrow()
    )
    return (
        rows.column("kept").combine_chunks().to_numpy(zero_copy_only=False),
        _flat(rows.column(_NOW)),
        _flat(rows.column(_BEFORE)),
    )


def _model_scores(name: str) -> Column:
    own = F.filter(F.col(name), lambda entry: entry[schemas.REASON] == schemas.MODEL_REASON)
    return F.transform(own, lambda entry: entry[schemas.SCORE]).alias(name)


def _flat(column: object) -> npt.NDArray[np.float32]:
    values = column.combine_chunks().flatten()  # type: ignore[attr-defined]
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float32)
