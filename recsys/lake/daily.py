"""gold/item_stats and gold/ratings: figures by day, of which a night replaces the last days."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.schemas import EVENT_DATE, EVENTS, ITEM_IDX, RECENT, USER_ID, USERS

_USER = "_user"


def build_item_stats(events: DataFrame) -> DataFrame:
    """Events and different users of each item and day.

    A 64-bit hash of the pseudonym halves the bytes to shuffle. Of a million users of one item and
    day two share a hash, and are counted as one, with a chance of 3 in 100 million.
    """
    user = F.xxhash64(USER_ID).alias(_USER)
    pairs = events.groupBy(ITEM_IDX, EVENT_DATE, user).count()
    return pairs.groupBy(ITEM_IDX, EVENT_DATE).agg(
        F.sum("count").alias(EVENTS), F.count(F.lit(1)).alias(USERS)
    )


def find_pairs(events: DataFrame) -> DataFrame:
    """Who had what on which day: user_id, item_idx, event_date, each once."""
    return events.select(USER_ID, ITEM_IDX, EVENT_DATE).distinct()


def add_item_stats(
    base: DataFrame, events: DataFrame, late_pairs: DataFrame, state: DataFrame
) -> DataFrame:
    """The base's figures with a night's events added, without reading the days' events again.

    Args:
        base: gold/item_stats of the days that the night may touch, as the base night left them.
        events: the night's events.
        late_pairs: ``find_pairs`` of those on days that the base night had already; read twice.
        state: gold/sequences of the base night, whose ``recent`` says who was counted before.
    """
    recent = (
        state.where(F.size(RECENT) > 0)
        .join(F.broadcast(late_pairs.select(USER_ID).distinct()), USER_ID, "left_semi")
        .select(USER_ID, F.explode(RECENT).alias("e"))
        .select(
            USER_ID,
            F.col("e.item").alias(ITEM_IDX),
            F.to_date(F.timestamp_micros("e.micros")).alias(EVENT_DATE),
        )
        .distinct()
    )
    again = late_pairs.join(recent, [USER_ID, ITEM_IDX, EVENT_DATE]).select(
        ITEM_IDX, EVENT_DATE, F.lit(0).alias(EVENTS), F.lit(-1).alias(USERS)
    )
    parts = (base.select(ITEM_IDX, EVENT_DATE, EVENTS, USERS), build_item_stats(events), again)
    union = parts[0].unionByName(parts[1]).unionByName(parts[2])
    return union.groupBy(ITEM_IDX, EVENT_DATE).agg(
        F.sum(EVENTS).alias(EVENTS), F.sum(USERS).alias(USERS)
    )


def build_ratings(events: DataFrame, users: DataFrame, base: DataFrame | None) -> DataFrame:
    """Each user's latest rating of an item on a day (of equal moments the higher one).

    Args:
        events: the night's events.
        users: user_id, user_idx.
        base: gold/ratings of the days that the night may touch, as the base night left them.
    """
    rated = events.where(F.col(schemas.RATING).isNotNull()).join(users, USER_ID)
    columns = schemas.GOLD_RATINGS.names
    ratings = rated.select(*columns)
    if base is not None:
        ratings = base.select(*columns).unionByName(ratings)
    newest = F.max(F.struct(schemas.EVENT_TS, schemas.RATING)).alias("newest")
    key = (schemas.USER_IDX, ITEM_IDX, EVENT_DATE)
    return ratings.groupBy(*key).agg(newest).select(*key, "newest.*")
