"""Quality checks of a built night: green on good tables, red on each fault."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys import checks, schemas
from recsys.checks import GREEN, RED, YELLOW
from recsys.config import load_settings
from recsys.lake.local import local_frame
from recsys.lake.measure import Measurement
from recsys.lake.quality import read_checks
from recsys.lake.tables import Lake
from recsys.schemas import Table
from recsys.steps.context import Context, Step
from recsys.steps.etl import BUILD_GOLD, BUILD_SILVER, INGEST
from recsys.steps.runner import run_night
from tests.spark.tiny_logs import DAY, event, log_format, write_json

pytestmark = pytest.mark.spark

EVENTS = [
    event(
        f"u{user}", f"i{item}", f"{DAY - timedelta(days=2 - day)}T10:{item:02d}:00Z", kind, **more
    )
    for user in range(6)
    for day in range(3)
    for item, kind, more in (
        (user + day, "view", {}),
        (user + day + 1, "purchase", {"value": 2.5}),
        (day + 7, "rating", {"rating": 4}),
    )
]


class Night:
    """A lake after the night's tables are built, and what was said."""

    def __init__(self, lake: Lake, logs: Path) -> None:
        self.lake, self.said = lake, list[str]()
        write_json(logs / "log.json", [*EVENTS, "not json", EVENTS[0]])
        self.run(INGEST, BUILD_SILVER, BUILD_GOLD)

    def run(self, *steps: Step, force: bool = False) -> None:
        context = Context(
            self.lake.settings, log_format(), DAY, self.lake, force, say=self.said.append
        )
        run_night(context, steps)


@pytest.fixture(scope="module")
def night(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Night:
    folder = tmp_path_factory.mktemp("night")
    logs = folder / "logs"
    settings = [f"lake.root={folder}/lake", f"input.path={logs}"]
    settings += ["gold.min_row_groups=1", "gold.sequence_length=4", "gold.length_buckets=[2,4]"]
    return Night(Lake(spark, load_settings(None, settings)), logs)


def test_a_good_night_is_green_and_says_nothing(night: Night) -> None:
    results = read_checks(night.lake, DAY)
    assert {result.status for result in results} == {GREEN}, list(map(str, results))
    etl = {step.name for step in (INGEST, BUILD_SILVER, BUILD_GOLD)}
    written = {declared.table.name for declared in checks.CHECKS if declared.stage in etl}
    assert {result.table for result in results} == written
    assert not [line for line in night.said if YELLOW in line or RED in line]
    runs = night.lake.read(schemas.OPS_RUNS).where("stage = 'build_silver'").collect()
    assert runs[0][schemas.DETAILS]["checks red"] == "0"
    assert float(runs[0][schemas.DETAILS]["checks seconds"]) >= 0


def test_running_again_replaces_the_results(night: Night) -> None:
    before = {(r.stage, r.table, r.check): r.status for r in read_checks(night.lake, DAY)}
    night.run(INGEST, force=True)
    after = read_checks(night.lake, DAY)
    assert len(after) == len(before)
    assert {(r.stage, r.table, r.check): r.status for r in after} == before
    versions = {r.table: r.table_version for r in after}
    assert versions[schemas.BRONZE_EVENTS.name] == night.lake.version(schemas.BRONZE_EVENTS)


Rows = list[dict[str, Any]]
LAST, FIRST = None, "first"
CHANGED: dict[str, dict[str, Any]] = {
    # Table: the check that is to ring, and what breaks it: new values of the row at a place, or
    # of a copy of the last row (or the first).
    "bronze/events": {
        "not null source_file": (0, {"source_file": None}),
        "source_offset is 1..n": (3, {"source_offset": 2}),
    },
    "bronze/rejects": {
        "not null source_file, source_offset, reason": (0, {"reason": None}),
        "rows as counted": (LAST, {"source_offset": 99}),
        "unique key": (LAST, {}),
    },
    "silver/events": {
        "not null event_id, user_id, item_id, event_ts": (0, {"user_id": None}),
        "event_type one of view, click, cart, purchase, rating": (1, {"event_type": "look"}),
        "rating 1 to 5": (2, {"rating": float("nan")}),
        "value is finite": (3, {"value": math.inf}),
        "event_date is of event_ts": (4, {"event_date": DAY}),
        # A row that another night has brought, so it is not one too many for this one.
        "unique key": (FIRST, {"ingest_date": DAY - timedelta(days=4)}),
    },
    "silver/users": {
        "not null user_id": (1, {"user_id": None}),
        "unique key": (LAST, {"user_idx": 7}),
        "user_idx is 1..n": (LAST, {"user_id": "other", "user_idx": 99}),
    },
    "silver/items": {
        "not null item_id": (1, {"item_id": None}),
        "unique key": (LAST, {}),
        "item_idx is 1..n": (3, {"item_idx": 99}),
    },
    "silver/user_vault": {
        "not null raw_user_id, user_id": (1, {"user_id": None}),
        "unique key": (LAST, {}),
    },
    "gold/sequences": {
        "same length items, event_types, event_times": (1, {"event_times": [1]}),
        "size up to bucket and length": (2, {"length": 1}),
        "items and codes are none of padding": (3, {"items": [0, 1, 1, 1]}),
        "rows as counted": (LAST, {"user_idx": 99}),
        "unique key": (LAST, {}),
    },
    "gold/training_sequences": {
        "same length items, event_types, event_times": (1, {"event_types": [1]}),
        "split one of train, validation": (2, {"split": "test"}),
        "padded to bucket, true length within": (3, {"bucket": 99}),
        "true items end the window": (4, {"items": [1, 1, 1, 1, 0]}),
        "unique key": (LAST, {}),
    },
    "gold/holdout": {
        "has targets": (0, {"targets": []}),
        "length at least 0": (1, {"length": -1}),
        "rows as counted": (LAST, {"user_idx": 99}),
        "unique key": (LAST, {}),
    },
    "gold/ratings": {
        "not null user_idx, item_idx, rating, event_ts": (0, {"event_ts": None, "event_date": DAY}),
        "rating 1 to 5": (1, {"rating": 5.5, "event_date": DAY}),
        "unique key": (LAST, {}),
    },
    "gold/item_stats": {
        "users up to events": (0, {"users": 99, "event_date": DAY, "item_idx": 77}),
        "unique key": (LAST, {}),
    },
}


def break_rows(rows: Rows, changes: dict[str, Any]) -> Rows:
    """Each change in a row of its own, or in one that is there again."""
    broken = [dict(row) for row in rows]
    for place, values in changes.values():
        if place in (FIRST, LAST):
            broken.append({**rows[0 if place is FIRST else -1], **values})
        else:
            broken[place] |= values
    return broken


def figures(lake: Lake) -> dict[str, int]:
    rows = lake.read(schemas.OPS_RUNS).collect()
    details = {name: value for row in rows for name, value in row[schemas.DETAILS].items()}
    return {name: int(value) for name, value in details.items() if value.isdecimal()}


LOOKED_AT = [declared for declared in checks.CHECKS if declared.table.name in CHANGED]


@pytest.mark.parametrize("declared", LOOKED_AT, ids=lambda declared: declared.table.name)
def test_each_fault_is_red_and_nothing_else(declared: checks.TableChecks, night: Night) -> None:
    table, lake = declared.table, night.lake
    changes = CHANGED[table.name]
    order = [name for name in (declared.night, declared.group, *table.key) if name in table.names]
    rows = [row.asDict() for row in lake.read(table).orderBy(*order).collect()]
    broken = [[row[name] for name in table.names] for row in break_rows(rows, changes)]
    frame = local_frame(lake.spark, broken, table.ddl)
    measurement = Measurement(declared, frame, DAY, figures(lake))
    measured = measurement.judge_all(measurement.query().collect())
    red = {check.name: verdict for check, verdict in measured if verdict.status == RED}
    assert set(red) == set(changes)
    assert {name: red[name].value for name in red if "counted" not in name} == {
        name: 1 for name in red if "counted" not in name
    }


def test_keys_of_a_large_table_are_compared_by_slices_another_one_each_night(
    spark: SparkSession,
) -> None:
    """All of 400,000 ratings twice: 1 of 4 slices is looked at, and a doubled key is named."""
    columns = [F.col("id").cast("int").alias("user_idx"), F.lit(1).alias("item_idx")]
    columns += [F.lit(4.0).alias("rating"), F.lit(datetime(2026, 3, 5)).alias("event_ts")]
    once = spark.range(200_000).select(*columns)
    for rows, status in ((once, GREEN), (once.unionByName(once), RED)):
        table = Table("gold/ratings", "", (), key=("user_idx", "item_idx"))
        declared = checks.TableChecks(table, "build_gold", (checks.Unique("ratings"),))
        looked_at = 0
        for days in range(4):
            day = DAY + timedelta(days=days)
            measurement = Measurement(declared, rows, day, {"ratings": 400_000})
            [(_, verdict)] = measurement.judge_all(measurement.query().collect())
            assert verdict.status == status
            assert "1 of 4 slices" in verdict.message
            looked_at += int(verdict.message.split("slices, ")[1].split()[0].replace(",", ""))
            if status == RED:
                assert "e.g. user_idx " in verdict.message
                break
        else:
            assert looked_at == 200_000
