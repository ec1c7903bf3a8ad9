"""Who gets a list, by which versions of the tables, and what of a user models look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys import schemas
from recsys.bundle import find_ranker, load_config
from recsys.lake.tables import Lake

_OF_USERS = (schemas.USER_IDX, schemas.USER_ATTRIBUTES)
"""Columns of a user that no sequence has."""

_PARTITIONS = (
    "spark.sql.shuffle.partitions",
    "spark.sql.adaptive.coalescePartitions.initialPartitionNum",
)


@dataclass(frozen=True)
class Versions:
    """Table versions that a night scores with; -1: there is no such table."""

    sequences: int
    users: int
    items: int
    item_stats: int
    user_attributes: int = -1


def known_users(lake: Lake, versions: Versions, run_date: date) -> DataFrame:
    """``user_id`` and ``user_idx`` of every user known on ``run_date``."""
    return (
        lake.read(schemas.SILVER_USERS, versions.users)
        # A row without a date keeps the index of a user that was erased.
        .where(
            (F.col(schemas.INGEST_DATE) <= F.lit(run_date)) & F.col(schemas.FIRST_SEEN).isNotNull()
        )
        .select(schemas.USER_ID, schemas.USER_IDX)
    )


def add_histories(
    lake: Lake,
    users: DataFrame,
    versions: Versions,
    events: Sequence[str] = (schemas.ITEMS,),
    place: Callable[[DataFrame], DataFrame] = lambda rows: rows,
) -> DataFrame:
    """What users did, by ``user_idx``; those without a sequence stay (they get the fallback).

    Args:
        users: with ``user_idx``.
        events: columns of histories beside ``seen_items`` and the bucket.
        place: chooses and deals out rows by ``user_idx``, of users and of histories alike; inside
            ``joined_in`` as many partitions the join moves none a second time.

    Returns:
        The columns of ``users``, the bucket (0 without a sequence), events and ``seen_items``
        (arrays, empty then).
    """
    names = [name for name in (*events, schemas.SEEN_ITEMS) if name not in _OF_USERS]
    histories = lake.read(schemas.GOLD_SEQUENCES, versions.sequences)
    histories = histories.select(schemas.USER_IDX, schemas.BUCKET, *names)
    types = {column.name: column.type for column in schemas.GOLD_SEQUENCES.columns}

    def list_of(name: str) -> Column:
        return F.coalesce(F.col(name), F.array().cast(types[name])).alias(name)

    return (
        place(users)
        .join(place(histories), schemas.USER_IDX, "left")
        .select(
            *users.columns,
            F.coalesce(F.col(schemas.BUCKET), F.lit(0)).alias(schemas.BUCKET),
            *map(list_of, names),
        )
    )


@contextmanager
def joined_in(spark: SparkSession, partitions: int) -> Iterator[None]:
    """Inside, a join leaves rows in the partitions that both sides were dealt out into.

    Spark plans to deal rows out anew where a join asks for it, into as many partitions as its
    settings say, and finds that this was done only if the numbers are the same.
    """
    before = {name: spark.conf.get(name, None) for name in _PARTITIONS}
    try:
        for name in _PARTITIONS:
            spark.conf.set(name, partitions)
        yield
    finally:
        for name, value in before.items():
            if value is None:
                spark.conf.unset(name)
            else:
                spark.conf.set(name, value)


def all_users(lake: Lake, versions: Versions, run_date: date) -> DataFrame:
    """Every user known on ``run_date``, with what they have seen."""
    return add_histories(lake, known_users(lake, versions, run_date), versions)


_COLUMNS = {
    "hours": schemas.EVENT_TIMES,
    "event_types": schemas.EVENT_TYPES,
    "user_idx": schemas.USER_IDX,
    "user_attributes": schemas.USER_ATTRIBUTES,
}


def history_columns(bundle: Path) -> tuple[str, ...]:
    """Columns that a bundle's models look at, named as in ``Histories``; items in any case."""
    folders = [bundle, find_ranker(bundle)]
    wanted = {name for f in folders if f is not None for name in load_config(f).looks_at}
    return (schemas.ITEMS, *(column for name, column in _COLUMNS.items() if name in wanted))
