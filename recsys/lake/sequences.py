"""Events to sequences: what a model trains on, what it scores, and what it is compared on.

Everything here maps DataFrames to DataFrames and works on one grouped history a user, so that
the events are shuffled once.
"""

from __future__ import annotations

from datetime import datetime

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.config import Gold

HISTORY = "_history"
EVENTS = "_events"
_CUTOFF_PART = "_before"


def build_histories(events: DataFrame, users: DataFrame, cutoff: datetime) -> DataFrame:
    """One row a user: all events, oldest first, runs of the same item kept once (the last).

    A run that goes on at or after ``cutoff`` is kept once on each side of it: what happened before
    must not depend on what came after.

    Args:
        events: user_id, item_idx, code, event_ts.
        users: user_id, user_idx.

    Returns:
        user_idx, user_id, _events: how many there were with the runs,
        _history: array<struct<micros, item, code, seconds>>.
    """
    event = F.struct(
        F.unix_micros(schemas.EVENT_TS).alias("micros"),
        F.col(schemas.ITEM_IDX).alias("item"),
        F.col("code"),
        F.unix_seconds(schemas.EVENT_TS).alias("seconds"),
    )
    ordered = (
        events.groupBy(schemas.USER_ID)
        .agg(F.sort_array(F.collect_list(event)).alias(HISTORY))
        .withColumn(EVENTS, F.size(HISTORY))
        .join(users, schemas.USER_ID)
    )
    # Of view, click, purchase of one item in a row the last says most; the model then predicts
    # the next different item instead of the obvious repeat.
    moment = int(cutoff.timestamp()) * 1_000_000
    crosses = f"(e.micros < {moment} and get({HISTORY}, i + 1).micros >= {moment})"
    return ordered.withColumn(HISTORY, _last_of_runs(f"or {crosses}"))


def _last_of_runs(or_keep: str = "") -> Column:
    return F.expr(
        f"filter({HISTORY}, (e, i) -> i = size({HISTORY}) - 1 "
        f"or get({HISTORY}, i + 1).item <> e.item {or_keep})"
    )


def build_sequences(histories: DataFrame, gold: Gold) -> DataFrame:
    """gold/sequences: the last ``sequence_length`` events of every user, with all seen items."""
    recent = _last(F.col(HISTORY), gold.sequence_length)
    # Scoring knows no cutoff: a run that crosses it is one run here.
    whole = histories.withColumn(HISTORY, _last_of_runs())
    return whole.withColumn("_recent", recent).select(
        schemas.USER_IDX,
        schemas.USER_ID,
        *_arrays("_recent"),
        F.size(HISTORY).alias(schemas.LENGTH),
        _distinct_items(HISTORY).alias(schemas.SEEN_ITEMS),
        _bucket(F.size("_recent"), gold.length_buckets).alias(schemas.BUCKET),
    )


def build_training_windows(histories: DataFrame, gold: Gold, cutoff: datetime) -> DataFrame:
    """gold/training_sequences: what happened before ``cutoff``, cut into windows.

    A window holds up to sequence_length + 1 events: the first ones are inputs, each one's next
    is its target. Neighbouring windows share one event, so every transition is a target once.
    Arrays get zeros in front up to their bucket's length + 1.
    """
    length = gold.sequence_length
    before = histories.select(schemas.USER_IDX, _before(cutoff).alias(_CUTOFF_PART)).where(
        F.size(_CUTOFF_PART) >= 2
    )
    windows = _count_windows(F.size(_CUTOFF_PART), gold)
    numbered = before.withColumn(schemas.WINDOW, F.explode(F.sequence(F.lit(0), windows - 1)))
    end = F.size(_CUTOFF_PART) - F.col(schemas.WINDOW) * length
    start = F.greatest(end - length - 1, F.lit(0))
    cut = numbered.withColumn("_cut", F.slice(_CUTOFF_PART, start + 1, end - start))
    bucket = _bucket(F.size("_cut") - 1, gold.length_buckets) + 1
    sized = cut.withColumn(schemas.LENGTH, F.size("_cut")).withColumn(schemas.BUCKET, bucket)
    share = F.pmod(F.xxhash64(schemas.USER_IDX, F.lit("validation")), F.lit(1_000_000)) / 1_000_000
    return sized.select(
        schemas.USER_IDX,
        schemas.WINDOW,
        *_arrays("_cut", padded=True),
        schemas.LENGTH,
        F.when(share < gold.validation_share, schemas.VALIDATION_SPLIT)
        .otherwise(schemas.TRAIN_SPLIT)
        .alias(schemas.SPLIT),
        schemas.BUCKET,
    )


def count_windows(gold: Gold, cutoff: datetime) -> Column:
    """Aggregate of histories: how many rows :func:`build_training_windows` makes of them."""
    return F.sum(_count_windows(_count_before(cutoff), gold))


def _count_windows(events: Column, gold: Gold) -> Column:
    """A user's windows, from the number of events before the cutoff; one event has no target."""
    needed = F.ceil((events - 1) / gold.sequence_length)
    return F.greatest(F.least(needed, F.lit(gold.max_windows_per_user)), F.lit(0)).cast("int")


def build_holdout(histories: DataFrame, gold: Gold, cutoff: datetime) -> DataFrame:
    """gold/holdout: users with items they first touched at or after ``cutoff``."""
    after = F.slice(HISTORY, _count_before(cutoff) + 1, F.size(HISTORY))
    split = histories.select(
        schemas.USER_IDX, _before(cutoff).alias(_CUTOFF_PART), after.alias("_after")
    ).where(F.size("_after") > 0)
    seen = _distinct_items(_CUTOFF_PART)
    return (
        split.withColumn("_recent", _last(F.col(_CUTOFF_PART), gold.sequence_length))
        .select(
            schemas.USER_IDX,
            F.col("_recent.item").alias(schemas.ITEMS),
            F.size(_CUTOFF_PART).alias(schemas.LENGTH),
            seen.alias(schemas.SEEN_ITEMS),
            F.array_except(_distinct_items("_after"), seen).alias(schemas.TARGETS),
        )
        .where(F.size(schemas.TARGETS) > 0)
    )


def _before(cutoff: datetime) -> Column:
    """The events before ``cutoff``: the first ones, as histories are in order."""
    return F.slice(HISTORY, 1, _count_before(cutoff))


def _count_before(cutoff: datetime) -> Column:
    micros = _micros(cutoff)
    return F.size(F.filter(F.col(f"{HISTORY}.micros"), lambda moment: moment < micros))


def _micros(moment: datetime) -> Column:
    return F.lit(int(moment.timestamp()) * 1_000_000)


def _last(events: Column, length: int) -> Column:
    return F.slice(events, F.greatest(F.size(events) - length + 1, F.lit(1)), length)


def _distinct_items(events: str) -> Column:
    return F.sort_array(F.array_distinct(F.col(f"{events}.item")))


def _arrays(events: str, padded: bool = False) -> list[Column]:
    def column(field: str, name: str, kind: str) -> Column:
        values = F.col(f"{events}.{field}")
        if padded:
            gap = F.col(schemas.BUCKET) - F.col(schemas.LENGTH)
            values = F.concat(F.array_repeat(F.lit(0).cast(kind), gap), values)
        return values.alias(name)

    return [
        column("item", schemas.ITEMS, "int"),
        column("code", schemas.EVENT_TYPES, "int"),
        column("seconds", schemas.EVENT_TIMES, "bigint"),
    ]


def _bucket(size: Column, buckets: tuple[int, ...]) -> Column:
    chosen = F.lit(buckets[-1])
    for bucket in reversed(buckets[:-1]):
        chosen = F.when(size <= bucket, F.lit(bucket)).otherwise(chosen)
    return chosen
