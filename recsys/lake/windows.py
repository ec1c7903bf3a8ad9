"""Training windows: each user's events before the hold-out, cut so that a night only adds to them.

Windows are counted from a user's first event, so that one is final as soon as its events are
settled, and stays as it is however many nights follow. A window holds up to sequence_length + 1
events: the first ones are inputs, each one's next is its target. Neighbouring windows share one
event, so every transition is a target once. The newest window of a user is filled up with older
events as context: what matters most for tomorrow is learned with as much to go by as scoring has.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.config import Gold
from recsys.lake.sequences import (
    FIRST_WINDOW,
    NEXT_WINDOW,
    RUN_DAYS,
    RUNS,
    Horizon,
    arrays,
    bucket_of,
    with_events_before,
)
from recsys.schemas import CONTEXT, LENGTH, SETTLED_COUNT, SETTLED_ON, WINDOW

_CUT, _FROM, _START, _END, _UNTIL = "_cut", "_from", "_start", "_end", "_until"


def settled_windows(merged: DataFrame, gold: Gold, horizon: Horizon) -> DataFrame:
    """Windows that became final since the base night, each with the night that it did."""
    length = gold.sequence_length
    settled = merged.where(F.col(NEXT_WINDOW) > F.col(FIRST_WINDOW)).withColumn(
        WINDOW, F.explode(F.sequence(F.col(FIRST_WINDOW), F.col(NEXT_WINDOW) - 1))
    )
    # Places in _runs, from 0: where the window starts, and the event whose settling made it final.
    start = F.col(WINDOW) * length - (F.col(SETTLED_COUNT) - F.size(RUNS))
    day = F.get(RUN_DAYS, start + length + 1)
    return _finish(
        settled.withColumns(
            {
                _CUT: F.slice(RUNS, start + 1, F.lit(length + 1)),
                CONTEXT: F.when(F.col(WINDOW) > 0, 1).otherwise(0),
                SETTLED_ON: F.date_add(F.date_from_unix_date(day), horizon.days),
            }
        ),
        gold,
    )


def open_windows(merged: DataFrame, gold: Gold, horizon: Horizon) -> DataFrame:
    """Windows that later nights may still change: what follows each user's last final one."""
    length = gold.sequence_length
    before = with_events_before(merged, horizon)
    many = count_open(gold)
    numbered = before.where(many > 0).withColumn(
        WINDOW, F.explode(F.sequence(F.col(NEXT_WINDOW), F.col(NEXT_WINDOW) + many - 1))
    )
    # Places among all the user's events, from 0: first and last of the window, where the context
    # before it begins, and the oldest event that is at hand.
    first = F.col(WINDOW) * length
    end = F.least(first + length, F.col(_UNTIL) - 1)
    oldest = F.col(_UNTIL) - F.size("_whole")
    start = F.greatest(end - length, oldest)
    placed = numbered.withColumns({_FROM: first, _START: start, _END: end})
    return _finish(
        placed.withColumns(
            {
                _CUT: F.slice(
                    "_whole", F.col(_START) - oldest + 1, F.col(_END) - F.col(_START) + 1
                ),
                CONTEXT: F.when(F.col(WINDOW) > 0, F.col(_FROM) - F.col(_START) + 1).otherwise(0),
                SETTLED_ON: F.lit(None).cast("date"),
            }
        ),
        gold,
    )


def count_open(gold: Gold) -> Column:
    """A user's open windows, from columns of ``with_events_before``; one event has no target."""
    rest = F.col(_UNTIL) - 1 - F.col(NEXT_WINDOW) * gold.sequence_length
    return F.greatest(F.ceil(rest / gold.sequence_length), F.lit(0)).cast("int")


def _finish(windows: DataFrame, gold: Gold) -> DataFrame:
    """Pad, choose the bucket, and say which split the user belongs to."""
    bucket = bucket_of(F.size(_CUT) - 1, gold.length_buckets) + 1
    sized = windows.withColumn(LENGTH, F.size(_CUT)).withColumn(schemas.BUCKET, bucket)
    share = F.pmod(F.xxhash64(schemas.USER_IDX, F.lit("validation")), F.lit(1_000_000)) / 1_000_000
    return sized.select(
        schemas.USER_IDX,
        WINDOW,
        *arrays(_CUT, gap=F.col(schemas.BUCKET) - F.col(LENGTH)),
        LENGTH,
        CONTEXT,
        SETTLED_ON,
        F.when(share < gold.validation_share, schemas.VALIDATION_SPLIT)
        .otherwise(schemas.TRAIN_SPLIT)
        .alias(schemas.SPLIT),
        schemas.BUCKET,
        F.col(SETTLED_ON).isNull().alias(schemas.OPEN),
    )
