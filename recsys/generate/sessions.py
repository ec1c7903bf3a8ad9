"""Visits of users: when, what they are after, and where on its trail they left off."""

from __future__ import annotations

import math

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from recsys.generate import dice
from recsys.generate.world import (
    BOT,
    BOT_SESSION_VIEWS,
    JOIN_DAY,
    SESSIONS,
    TASTES,
    USER,
    World,
    list_users,
)

KEY, DAY, START, PACE, STEPS = "key", "day", "start", "pace", "steps"
SLOT, CATEGORY, POSITION = "slot", "category", "position"
TRAIL, SIZE = "trail", "size"
OTHER_TRAIL, OTHER_SIZE, OTHER_STEP = "other_trail", "other_size", "other_step"

DAY_MS = 86_400_000
_QUIET_MS = 10_000  # at least this long between two visits and before midnight
_BOT_PACE_MS = 250
_SAME_INTEREST = 3  # visits in a row that are after the same category
_FAVOURITE = 1.7  # above 1, the first tastes get more visits than the last
_TRAIL_START = 0.8  # Zipf exponent of where people start: most of them near its beginning
_ROWS_PER_TASK = 25_000


def list_sessions(spark: SparkSession, world: World, events_per_step: float) -> DataFrame:
    """One row a visit, none overlapping another of the same user.

    Columns: user, bot, key (hash), day (from 0), start and pace (milliseconds), steps, slot (of
    the taste), position (on the trail, before the first step), trail and size (first item and
    number of items of the category), and the same of another taste, for steps off the trail.
    """
    s = world.settings
    users = list_users(spark, world, events_per_step)
    number = F.explode(F.sequence(F.lit(1).cast("long"), F.col(SESSIONS))).alias("number")
    visits = users.select("*", number).withColumn(
        KEY, world.seed_key(F.lit(8), F.col(USER), F.col("number"))
    )
    visits = _add_times(visits, s.session_steps, s.days)
    # Later stages multiply rows, so the number of tasks must not follow the few bytes here.
    tasks = max(spark.sparkContext.defaultParallelism, s.events // 16 // _ROWS_PER_TASK)
    return _add_interest(_drop_overlaps(visits.repartition(tasks, USER)), world)


def _add_times(visits: DataFrame, mean_steps: int, days: int) -> DataFrame:
    key = F.col(KEY)
    if mean_steps == 1:
        geometric = F.lit(1).cast("long")
    else:
        rate = 1 / math.log(1 - 1 / mean_steps)
        draw = 1 - dice.uniform(key, "steps")
        geometric = F.least(1 + F.floor(F.log(draw) * rate), F.lit(6 * mean_steps).cast("long"))
    crawl = BOT_SESSION_VIEWS // 2 + dice.below(key, "steps", BOT_SESSION_VIEWS)
    # Long visits hurry, so that each ends on its day.
    pace = F.least(12_000 + dice.below(key, "pace", 48_000), F.floor(DAY_MS * 0.8 / F.col(STEPS)))
    length = F.col(STEPS) * F.col(PACE)
    # A third of the visits at any time, the others gathering around the early evening.
    bell = (dice.uniform(key, "a") + dice.uniform(key, "b") + dice.uniform(key, "c")) / 3
    evening = 0.3 + 0.7 * bell
    moment = F.when(dice.chance(key, "any", 0.33), dice.uniform(key, "d")).otherwise(evening)
    day = F.col(JOIN_DAY) + dice.below(key, "day", days - F.col(JOIN_DAY))
    return (
        visits.withColumn(STEPS, F.when(F.col(BOT), crawl).otherwise(geometric))
        .withColumn(PACE, F.when(F.col(BOT), _BOT_PACE_MS).otherwise(pace))
        .withColumn(DAY, day)
        .withColumn(START, F.floor(moment * (DAY_MS - _QUIET_MS - length)))
    )


def _drop_overlaps(visits: DataFrame) -> DataFrame:
    """Without this, two visits could meet at one item and look like a planted duplicate."""
    begin = F.col(DAY) * DAY_MS + F.col(START)
    end = begin + F.col(STEPS) * F.col(PACE) + _QUIET_MS
    earlier = (
        Window.partitionBy(USER)
        .orderBy(DAY, START, "number")
        .rowsBetween(Window.unboundedPreceding, -1)
    )
    busy_until = F.max(end).over(earlier)
    free = busy_until.isNull() | (begin > busy_until)
    return visits.withColumn("free", free).where(F.col("free"))


def _add_interest(visits: DataFrame, world: World) -> DataFrame:
    user = F.col(USER)
    in_order = Window.partitionBy(USER).orderBy(DAY, START, "number")
    of = world.seed_key(F.lit(9), user)
    block = F.floor(
        (F.row_number().over(in_order) + dice.below(of, "shift", _SAME_INTEREST)) / _SAME_INTEREST
    )
    pick = world.seed_key(F.lit(10), user, F.col("block"))
    slot = F.floor(F.pow(dice.uniform(pick, "slot"), F.lit(_FAVOURITE)) * TASTES)
    before = (
        Window.partitionBy(USER, CATEGORY)
        .orderBy(DAY, START, "number")
        .rowsBetween(Window.unboundedPreceding, -1)
    )
    walked = F.coalesce(F.sum(STEPS).over(before), F.lit(0))
    trail = world.seed_key(F.lit(11), user, F.col(CATEGORY))
    first = dice.zipf(trail, "first", F.col(SIZE), _TRAIL_START)
    other = world.taste(user, dice.below(F.col(KEY), "other", TASTES), F.col(DAY))
    return (
        visits.withColumn("block", block)
        .withColumn(SLOT, slot)
        .withColumn(CATEGORY, world.taste(user, F.col(SLOT), F.col(DAY)))
        .withColumn("other", other)
        .withColumn(TRAIL, world.offset_of(F.col(CATEGORY)))
        .withColumn(SIZE, world.size_of(F.col(CATEGORY)))
        .withColumn(OTHER_TRAIL, world.offset_of(F.col("other")))
        .withColumn(OTHER_SIZE, world.size_of(F.col("other")))
        .withColumn(OTHER_STEP, world.step_of(F.col("other")))
        .withColumn(POSITION, first + walked)
        .drop("number", "free", "block", "other", JOIN_DAY, SESSIONS, CATEGORY)
    )
