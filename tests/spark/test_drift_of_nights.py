"""Volume, mix and shares of a night beside those of the nights before."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from pyspark.sql import SparkSession

from recsys import schemas
from recsys.checks import GREEN, RED
from recsys.config import load_settings
from recsys.lake.local import local_frame
from recsys.lake.tables import Lake
from tests.spark.checked_nights import TYPES, check_and_record, events_of
from tests.spark.tiny_logs import DAY

pytestmark = pytest.mark.spark


def check_night(lake: Lake, number: int, counts: Mapping[str, int], rejects: int = 2) -> Any:
    """The checks of a night that found so many events; by the check's name."""
    rows = events_of(lake.spark, [{}] * number + [counts])
    day = DAY + timedelta(days=number)
    lake.replace(schemas.SILVER_EVENTS, rows, f"ingest_date = '{day}'")
    counted = {"events": sum(counts.values()), "duplicates": 1, "rejects": rejects}
    counted["read"] = sum(counted.values())
    found = check_and_record(lake, day, counted)
    return {result.check: result for result in found if result.check in DRIFT}


DRIFT = ("volume", "mix of event_type", "share of duplicates", "share of rejects")


@pytest.fixture(scope="module")
def three_nights(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    root = tmp_path_factory.mktemp("three_nights")
    lake = Lake(spark, load_settings(None, [f"lake.root={root}"]))
    lake.replace(schemas.BRONZE_REJECTS, local_frame(spark, [], schemas.BRONZE_REJECTS.ddl))
    for number, counts in enumerate([TYPES, {**TYPES, "view": 64}, TYPES]):
        found = check_night(lake, number, counts)
        assert {result.status for result in found.values()} == {GREEN}
    return lake


@pytest.mark.parametrize(
    ("last", "rejects", "red"),
    [
        ({"view": 66, "click": 26, "purchase": 9}, 3, set()),
        ({"view": 30, "click": 15, "purchase": 5}, 2, {"volume"}),
        ({"view": 130, "click": 60, "purchase": 20}, 2, {"volume"}),
        ({"view": 5, "click": 5, "purchase": 90}, 2, {"mix of event_type"}),
        (TYPES, 30, {"share of rejects"}),
    ],
)
def test_drift_beside_the_nights_before(
    last: Mapping[str, int], rejects: int, red: set[str], three_nights: Lake
) -> None:
    found = check_night(three_nights, 3, last, rejects)
    assert set(found) == set(DRIFT)
    assert {name for name, result in found.items() if result.status != GREEN} == red
    assert {result.status for result in found.values()} <= {GREEN, RED}
