"""Events of users for the tests of gold, in seconds around the hold-out."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

from pyspark.sql import DataFrame

from recsys.config import Gold, load_settings

NIGHT = date(2026, 3, 5)
CUTOFF = datetime(2026, 3, 5, tzinfo=UTC)
MICRO = timedelta(microseconds=1)
SMALL = ("gold.sequence_length=4", "gold.length_buckets=[2, 4]", "silver.late_days=1")


class Event(NamedTuple):
    """One event of a user; ``at`` is in seconds after the cutoff (before it: negative)."""

    user: int
    item: int
    at: float
    code: int = 1

    @property
    def moment(self) -> datetime:
        return CUTOFF + round(self.at * 1_000_000) * MICRO


def small_gold(*overrides: str) -> Gold:
    return load_settings(None, [*SMALL, *overrides]).gold


def by_user(frame: DataFrame, *keys: str) -> dict[Any, dict[str, Any]]:
    rows = [row.asDict() for row in frame.collect()]
    return {tuple(r[k] for k in keys) if len(keys) > 1 else r[keys[0]]: r for r in rows}
