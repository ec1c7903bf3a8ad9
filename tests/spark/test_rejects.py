"""What is no event: every record accounted for, each reject with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from recsys import schemas
from recsys.config import load_settings
from recsys.errors import InputError
from recsys.generate import generate_log
from recsys.lake.formats import REASONS, TOO_LATE, load_format
from recsys.lake.silver import SilverCounts
from recsys.lake.tables import Lake
from tests.spark.generated_log import END, small
from tests.spark.tiny_logs import build, event, log_format, write_json

pytestmark = pytest.mark.spark


@dataclass(frozen=True)
class Generated:
    lake: Lake
    planted: dict[str, int]
    lines: int
    nights: list[SilverCounts]


@pytest.fixture(scope="module")
def generated(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Generated:
    folder = tmp_path_factory.mktemp("reconcile")
    planted = generate_log(spark, small(events=1500, users=100, days=4), str(folder / "log"), END)
    settings = [f"lake.root={folder}/lake", "ingest.max_reject_share=0.2"]
    lake, log = Lake(spark, load_settings(None, settings)), load_format("generated")
    eve = END - timedelta(days=1)
    nights = [build(lake, log, folder / "log", eve), build(lake, log, folder / "log", END, eve)]
    return Generated(lake, planted.counts, planted.counts["lines"], nights)


def test_every_record_of_a_generated_log_is_accounted_for(generated: Generated) -> None:
    planted, found = generated.planted, Counter[str]()
    for night in generated.nights:
        assert night.read == night.events + night.duplicates + night.rejects
        assert night.rejects == sum(night.reasons.values())
        found.update(night.reasons)
    assert sum(night.read for night in generated.nights) == generated.lines
    assert found["malformed"] == planted["malformed"]
    assert found["unknown_event_type"] == planted["unknown_type"]
    assert found["bad_rating"] == planted["bad_rating"]
    # A catch-up night may have reached the day that a clock was ahead of.
    skewed = planted["clock_skew"] - found["after_run_date"]
    assert 0 <= skewed < planted["clock_skew"]
    duplicates = sum(night.duplicates for night in generated.nights)
    assert duplicates == planted["exact_duplicates"] + planted["near_duplicates"]
    events = sum(night.events for night in generated.nights)
    assert events == planted["good_events"] + skewed
    assert generated.lake.read(schemas.SILVER_EVENTS).count() == events
    assert generated.lake.read(schemas.BRONZE_REJECTS).count() == sum(found.values())


def test_silver_of_a_generated_log_keeps_its_promises(generated: Generated) -> None:
    lake = generated.lake
    events = lake.read(schemas.SILVER_EVENTS)
    users, items = lake.read(schemas.SILVER_USERS), lake.read(schemas.SILVER_ITEMS)
    assert events.select("event_id").distinct().count() == events.count()
    for table, key, index in ((users, "user_id", "user_idx"), (items, "item_id", "item_idx")):
        indices = sorted(row[0] for row in table.select(index).collect())
        assert indices == list(range(1, len(indices) + 1))
        assert events.join(table, key, "left_anti").count() == 0
    assert items.where("title is null or attributes['category'] is null").count() == 0


RATED = event("u", "a", "10:00:00", "rating")
REJECTED: list[tuple[str, Any]] = [
    ("binary", '{"user":"u\u0000"}'),
    ("malformed", '{"user":"u","item"'),
    ("malformed", "[]"),
    ("malformed", "   "),
    ("malformed", '{"user":"u","item":"a","type":"view","ts":"2026-03-05T10:00:00Z"} {"user":'),
    ("malformed", '{"user":"u","item":"a","type":"view","ts":"2026-03-05T10:00:00Z"}\t{"user":1}'),
    ("missing_user_id", event("", "a", "10:00:00")),
    ("missing_user_id", {"item": "a", "type": "view", "ts": "2026-03-05T10:00:00Z"}),
    ("missing_item_id", event("u", "  ", "10:00:00")),
    ("unknown_event_type", event("u", "a", "10:00:00", "VIEW")),
    ("unknown_event_type", {"user": "u", "item": "a", "ts": "2026-03-05T10:00:00Z"}),
    ("bad_timestamp", event("u", "a", "2026-02-30T00:00:00Z")),
    ("bad_rating", RATED),
    ("bad_rating", {**RATED, "rating": 0.5}),
    ("bad_rating", {**RATED, "rating": "NaN"}),
    ("bad_rating", {**RATED, "rating": "five"}),
    ("bad_rating", event("u", "a", "10:00:00", rating=6)),
    ("bad_value", event("u", "a", "10:00:00", "purchase", value="12,50")),
    ("bad_value", event("u", "a", "10:00:00", "purchase", value="Infinity")),
    ("after_run_date", event("u", "a", "2026-03-06T00:05:00Z")),
]
ACCEPTED = [
    event("  u  ", "a", "10:00:00"),
    event("u", "a", "2026-03-06T00:04:59Z"),
    {**RATED, "rating": "5"},
    event("12", "a", "10:00:00") | {"user": 12},
    event('braces }{ and } { in " a text', "}", "10:00:00", more={"inner": "}"}),
    '{"user":"lone \\ud800 surrogate","item":"a","type":"view","ts":"2026-03-05T10:00:00Z"}',
]  # fmt: skip


def test_each_reject_has_its_reason_and_its_line(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    lake = make_lake("ingest.max_reject_share=1")
    lines = [record for _, record in REJECTED] + ACCEPTED
    path = write_json(tmp_path / "logs/a.json", lines)
    with path.open("ab") as file:
        file.write(b'{"user":"\xff\xfe","item":"b","type":"view","ts":"2026-03-05T10:00:00Z"}\n')
    counts = build(lake, log_format(), tmp_path / "logs")
    written = path.read_bytes().decode(errors="replace").splitlines()
    rows = lake.read(schemas.BRONZE_REJECTS).orderBy("source_offset").collect()
    known = [row for row in rows if row["source_offset"] <= len(REJECTED)]
    assert [(r["source_offset"], r["reason"]) for r in known] == [
        (number, reason) for number, (reason, _) in enumerate(REJECTED, 1)
    ]
    assert {row["raw"] for row in known} == set(written[: len(REJECTED)])
    assert {row["source_file"] for row in rows} == {"a.json"}
    assert set(REASONS) - {TOO_LATE} == {reason for reason, _ in REJECTED}  # a daily log's alone
    assert counts.read == len(lines) + 1
    assert counts.rejects - len(REJECTED) in (0, 1)  # a broken character is no reason to stop
    users = {row["raw_user_id"] for row in lake.read(schemas.SILVER_USER_VAULT).collect()}
    assert {"u", "12"} <= users


def test_too_many_rejects_stop_the_night_before_silver_changes(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    lake = make_lake("ingest.max_reject_share=0.5")
    good = [event(f"u{n}", "a", "10:00:00") for n in range(2)]
    write_json(tmp_path / "logs/a.json", [*good, "not json", "nor this", '{"user":"x"}'])
    with pytest.raises(InputError) as caught:
        build(lake, log_format(), tmp_path / "logs")
    error = caught.value
    assert error.what == (
        "60.0% of 5 records were rejected, allowed are 50.0%: malformed 2, missing_item_id 1"
    )
    assert error.where.startswith("first malformed: a.json:3; all in ")
    assert "nothing was published" in error.do
    assert not lake.exists(schemas.SILVER_EVENTS)
    assert not lake.exists(schemas.SILVER_USERS)


def test_tolerated_rejects_do_not_count_unless_nothing_is_left(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    lake, log = make_lake(), log_format(tolerated_rejects=["after_run_date"])
    later = [event("u", "a", "2027-01-01T00:00:00Z")] * 9
    write_json(tmp_path / "logs/a.json", later)
    with pytest.raises(InputError, match="no data up to 2026-03-05: all 9 records are later"):
        build(lake, log, tmp_path / "logs")
    write_json(tmp_path / "logs/a.json", [*later, event("u", "a", "10:00:00")])
    assert build(lake, log, tmp_path / "logs").events == 1
