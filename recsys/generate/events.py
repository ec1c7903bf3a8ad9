"""Steps of a visit and the events that each step leaves."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys.generate import dice
from recsys.generate.sessions import (
    DAY,
    KEY,
    OTHER_SIZE,
    OTHER_STEP,
    OTHER_TRAIL,
    PACE,
    POSITION,
    SIZE,
    SLOT,
    START,
    STEPS,
    TRAIL,
)
from recsys.generate.world import BOT, USER, World, coprime_near, lookup

ITEM, TYPE, MOMENT, RATING, CENTS = "item", "type", "moment", "rating", "cents"

_CLICK, _CART, _PURCHASE = 0.4, 0.3, 0.5  # each given the one before it
_MEAN_FIT = 0.6
_RATE_PURCHASED, _RATE_CLICKED = 0.4, 0.08
_RANK_EXPONENT = 1.1  # of the popularity of a category's items
_JITTER = (0, 0, 0, 0, 0, 0, 1, 1, 2, -1)  # positions on the trail
_OFFSETS_MS = {"view": 0, "click": 900, "cart": 1_900, "purchase": 2_900, "rating": 3_900}

EVENTS_PER_STEP = (
    1
    + _CLICK
    + _CLICK * _CART
    + _CLICK * _CART * _PURCHASE * (1 + _RATE_PURCHASED)
    + _CLICK * (1 - _CART * _PURCHASE) * _RATE_CLICKED
)


def list_events(sessions: DataFrame, world: World) -> DataFrame:
    """One row an event, clean: user and item (numbers), key, day, type, moment, rating, cents.

    ``moment`` is milliseconds since the day's midnight (UTC). Two events of one user, item and
    type are always more than three seconds apart, so nothing but a planted duplicate looks like
    one.
    """
    steps = _list_steps(sessions, world)
    key = F.col(KEY)
    clicked = ~F.col(BOT) & dice.chance(key, "click", _click_chance(world))
    carted = clicked & dice.chance(key, "cart", _CART)
    bought = carted & dice.chance(key, "purchase", _PURCHASE)
    rate = F.when(bought, _RATE_PURCHASED).otherwise(_RATE_CLICKED)
    rated = clicked & dice.chance(key, "rate", rate)
    happened = {"view": F.lit(True), "click": clicked, "cart": carted, "purchase": bought}
    happened["rating"] = rated
    kinds = F.array(*[F.when(did, F.lit(kind)) for kind, did in happened.items()])
    # A filter would be pushed below the choice of the item and compute that twice.
    born = world.birth_day(F.col(ITEM)) <= F.col(DAY)
    offset = F.lit(0)
    for kind, milliseconds in _OFFSETS_MS.items():
        offset = F.when(F.col(TYPE) == kind, milliseconds).otherwise(offset)
    is_rating, is_purchase = F.col(TYPE) == "rating", F.col(TYPE) == "purchase"
    return (
        steps.withColumn(TYPE, F.explode(F.when(born, kinds)))
        .where(F.col(TYPE).isNotNull())
        .withColumn(KEY, F.xxhash64(F.col(KEY), F.col(TYPE)))
        .withColumn(MOMENT, F.col(MOMENT) + offset)
        .withColumn(RATING, F.when(is_rating, _stars(world)))
        .withColumn(CENTS, F.when(is_purchase, world.price_cents(F.col(ITEM))))
        .select(USER, BOT, ITEM, KEY, DAY, TYPE, MOMENT, RATING, CENTS)
    )


def _list_steps(sessions: DataFrame, world: World) -> DataFrame:
    """One row a step: item, moment, key, off (the trail)."""
    s = world.settings
    key, step = F.col(KEY), F.col("step")
    off_trail = F.col("off")
    # Small skips and steps back, so that the next item is likely but never certain.
    jitter = lookup(_JITTER, dice.below(key, "jitter", len(_JITTER)))
    trail = F.col(TRAIL) + F.pmod(F.col(POSITION) + step + jitter, F.col(SIZE))
    rank = dice.zipf(key, "rank", F.col(OTHER_SIZE), _RANK_EXPONENT)
    popular = F.col(OTHER_TRAIL) + F.pmod((rank + 1) * F.col(OTHER_STEP), F.col(OTHER_SIZE))
    # A crawler meets every item once before it meets one again.
    stride = coprime_near(s.items, 0.447)
    crawled = F.pmod(dice.below(F.col("visit"), "crawl", s.items) + step * stride, F.lit(s.items))
    wobble = F.floor(dice.uniform(key, "wobble") * F.col(PACE) * 0.4)
    return (
        sessions.withColumnRenamed(KEY, "visit")
        .withColumn("step", F.explode(F.sequence(F.lit(0).cast("long"), F.col(STEPS) - 1)))
        .withColumn(KEY, dice.key(F.col("visit"), step))
        .withColumn("off", dice.chance(key, "off", s.popular_share))
        .withColumn(ITEM, F.when(F.col(BOT), crawled).when(off_trail, popular).otherwise(trail))
        .withColumn(MOMENT, F.col(START) + step * F.col(PACE) + wobble)
    )


def _click_chance(world: World) -> Column | float:
    """Of a step: by how the item fits the taste and how good it is, as far as the settings say."""
    spread = world.settings.click_spread
    if spread == 0.0:
        return _CLICK
    better = _fit() - _MEAN_FIT + world.quality(F.col(ITEM))
    return 1 / (1 + (1 / _CLICK - 1) * F.exp(-spread * better))


def _fit() -> Column:
    """Rating points by which a user likes a step's item for its category; none off the trail."""
    return F.when(F.col("off"), 0.0).otherwise(1.2 - 0.3 * F.col(SLOT))


def _stars(world: World) -> Column:
    """1 to 5: how the item fits the taste, how good it is, and some mood."""
    fit = _fit()
    mood = 1.5 * dice.triangle(F.col(KEY), "mood")
    points = F.round(2.9 + fit + world.quality(F.col(ITEM)) + mood)
    return F.least(F.greatest(points, F.lit(1)), F.lit(5)).cast("int")
