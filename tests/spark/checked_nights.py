"""Nights of silver/events with so many events of each type, and their checks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta

from pyspark.sql import DataFrame, SparkSession

from recsys import schemas
from recsys.lake.quality import CheckResult, check_tables, read_history, record_checks
from recsys.lake.tables import Lake
from tests.spark.tiny_logs import DAY

TYPES = {"view": 60, "click": 30, "purchase": 10}


def events_of(spark: SparkSession, nights: list[Mapping[str, int]]) -> DataFrame:
    """silver/events of consecutive nights from DAY, with so many events of each type."""
    rows = [
        (f"{night} {kind} {n}", "u", f"i{n}", kind, None, None, datetime(2026, 3, 5 + night, 12),
         DAY + timedelta(days=night), DAY + timedelta(days=night))
        for night, counts in enumerate(nights)
        for kind, count in counts.items()
        for n in range(count)
    ]  # fmt: skip
    return spark.createDataFrame(rows, schemas.SILVER_EVENTS.ddl)


def check_and_record(lake: Lake, day: date, counted: Mapping[str, int]) -> list[CheckResult]:
    history = read_history(lake, day)
    found = check_tables(lake, day, "build_silver", {}, counted, history)
    record_checks(lake, day, "build_silver", found, history)
    return found
