"""Who gets a list, by which versions of the tables, and what of a user models look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.bundle import find_ranker, load_config
from recsys.lake.tables import Lake

_OF_USERS = (schemas.USER_IDX, schemas.USER_ATTRIBUTES)
"""Columns of a user that no sequence has."""


@dataclass(frozen=True)
class Versions:
    """Table versions that a night scores with; -1: there is no such table."""

    sequences: int
    users: int
    items: int
    item_stats: int
    user_attributes: int = -1


def all_users(
    lake: Lake, versions: Versions, run_date: date, events: Sequence[str] = (schemas.ITEMS,)
) -> DataFrame:
    """Every user known on ``run_date``, those without a sequence too (they get the fallback)."""
    users = lake.read(schemas.SILVER_USERS, versions.users).where(
        # A row without a date keeps the index of a user that was erased.
        (F.col(schemas.INGEST_DATE) <= F.lit(run_date)) & F.col(schemas.FIRST_SEEN).isNotNull()
    )
    sequences = lake.read(schemas.GOLD_SEQUENCES, versions.sequences).drop(schemas.USER_ID)
    types = {column.name: column.type for column in schemas.GOLD_SEQUENCES.columns}

    def list_of(name: str) -> Column:
        return F.coalesce(F.col(name), F.array().cast(types[name])).alias(name)

    return users.join(sequences, schemas.USER_IDX, "left").select(
        schemas.USER_ID,
        schemas.USER_IDX,
        F.coalesce(F.col(schemas.BUCKET), F.lit(0)).alias(schemas.BUCKET),
        *[list_of(name) for name in (*events, schemas.SEEN_ITEMS) if name not in _OF_USERS],
    )


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
