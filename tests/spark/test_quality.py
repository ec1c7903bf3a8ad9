"""Quality checks: green on good tables, red on each fault, and red ones stop the publishing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys import checks, schemas
from recsys.checks import GREEN, RED, YELLOW
from recsys.cli.main import main
from recsys.config import load_settings
from recsys.errors import PublishError
from recsys.lake.local import local_frame
from recsys.lake.measure import Measurement
from recsys.lake.operations import SUCCEEDED, StageRun, record_run
from recsys.lake.publish import live
from recsys.lake.quality import (
    CheckResult,
    check_tables,
    read_checks,
    read_history,
    record_checks,
)
from recsys.lake.tables import Lake
from recsys.schemas import Table
from recsys.steps.context import Context, Step
from recsys.steps.etl import BUILD_GOLD, BUILD_SILVER, INGEST
from recsys.steps.lists import PUBLISH
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
    written = {declared.table.name for declared in checks.CHECKS} - {schemas.GOLD_TOP_N.name}
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


def context_to_publish(lake: Lake, *overrides: str) -> tuple[Context, list[str]]:
    said: list[str] = []
    settings = load_settings(None, [f"lake.root={lake.settings.lake.root}", *overrides])
    return Context(settings, log_format(), DAY, Lake(lake.spark, settings), say=said.append), said


def test_red_stops_the_publishing_until_it_is_mended_or_overruled(
    make_lake: Callable[..., Lake], capsys: pytest.CaptureFixture[str]
) -> None:
    lake = make_lake()
    versions = {table.name: 3 for table in schemas.TABLES}
    for stage in ("build_silver", "build_gold", "score_users"):
        details = {"model_version": "1"}
        record_run(
            lake, StageRun(DAY, stage, SUCCEEDED, stage, 1, 7, details, {}, tables_written=versions)
        )
    lake.replace(schemas.SILVER_EVENTS, events_of(lake.spark, [TYPES]))
    check_and_record(lake, DAY, {"events": 99, "duplicates": 0, "read": 99})
    context, _ = context_to_publish(lake)
    with pytest.raises(PublishError) as caught:
        run_night(context, (PUBLISH,))
    assert "silver/events, rows as counted: 100 rows, the stage counted 99" in caught.value.what
    assert caught.value.where.endswith("/silver/events version 0")
    assert "quality.block_publish=off" in caught.value.do
    assert lake.version(schemas.OPS_PUBLISHED) == -1

    with pytest.raises(SystemExit) as ended:
        main(["checks", "--date", str(DAY), "--lake", lake.settings.lake.root])
    assert ended.value.code == 1
    assert "100 rows, the stage counted 99" in capsys.readouterr().out

    context, said = context_to_publish(lake, "quality.block_publish=off")
    run_night(context, (PUBLISH,))
    assert live(lake).lists == 7
    assert any("red quality checks, published all the same" in line for line in said)

    check_and_record(lake, DAY, {"events": 100, "duplicates": 0, "read": 100})
    context, _ = context_to_publish(lake)
    context.force = True
    run_night(context, (PUBLISH,))
    with pytest.raises(SystemExit) as ended:
        main(["checks", "--date", str(DAY), "--lake", lake.settings.lake.root])
    assert ended.value.code == 0
