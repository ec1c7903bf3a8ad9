"""The generated log: same seed same bytes, true counts, and a world that behaves as promised."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys import schemas
from recsys.generate import GeneratedLog, generate_log
from recsys.generate.lines import LINES_PER_FILE, files_per_day
from recsys.generate.world import SEGMENTS, TASTES, build_world
from tests.spark.generated_log import (
    END,
    GOOD,
    SMALL,
    Line,
    count_near_duplicates,
    digest,
    kind_of,
    read_items,
    read_lines,
    small,
)

pytestmark = pytest.mark.spark


@dataclass(frozen=True)
class Written:
    folder: Path
    log: GeneratedLog
    lines: list[Line]

    @property
    def good(self) -> list[dict[str, Any]]:
        return [line.said for line in self.lines if line.said and kind_of(line) in GOOD]


@pytest.fixture(scope="module")
def written(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("generated") / "log"
    log = generate_log(spark, small(), str(folder), END)
    return Written(folder, log, list(read_lines(folder)))


def test_writes_one_folder_a_day_with_plain_names(written: Written) -> None:
    days = [str(END - timedelta(days=n)) for n in range(4, -1, -1)]
    expected = [f"dt={day}/part-00000.json.gz" for day in days]
    assert sorted(digest(written.folder)) == sorted(
        ["_generated.json", *expected, "items.tsv", "users.tsv"]
    )


def test_same_seed_gives_same_bytes_with_other_cores_partitions_and_time_zone(
    written: Written, tmp_path: Path
) -> None:
    script = f"""
from datetime import date
from pyspark.sql import SparkSession
from recsys.config import Generate
from recsys.generate import generate_log
options = {{"spark.sql.shuffle.partitions": "7", "spark.sql.session.timeZone": "Asia/Tokyo",
           "spark.ui.enabled": "false", "spark.driver.host": "127.0.0.1",
           "spark.sql.adaptive.enabled": "false", "spark.sql.files.maxRecordsPerFile": "100"}}
spark = SparkSession.builder.master("local[3]").config(map=options).getOrCreate()
settings = Generate.model_validate_json({small().model_dump_json()!r})
generate_log(spark, settings, {str(tmp_path / "log")!r}, date.fromisoformat("{END}"))
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=900)
    assert digest(tmp_path / "log") == digest(written.folder)


def test_manifest_counts_what_the_files_hold(written: Written) -> None:
    counts = written.log.counts
    found = Counter(kind_of(line) for line in written.lines)
    replaced = ("malformed", "unknown_type", "bad_rating", "clock_skew", "late")
    assert {kind: counts[kind] for kind in replaced} == {kind: found[kind] for kind in replaced}
    exact = Counter((line.folder, line.text) for line in written.lines)
    assert counts["exact_duplicates"] == sum(count - 1 for count in exact.values())
    assert counts["near_duplicates"] == count_near_duplicates(written.lines)
    assert counts["lines"] == len(written.lines)
    assert min(counts.values()) > 0


def test_counts_add_up(written: Written) -> None:
    c = written.log.counts
    replaced = c["malformed"] + c["unknown_type"] + c["bad_rating"] + c["clock_skew"]
    assert c["lines"] == c["events"] + c["exact_duplicates"] + c["near_duplicates"]
    assert c["events"] == c["good_events"] + replaced
    assert c["good_events"] == c["clean"] + c["late"]
    assert c["malformed"] == sum(n for name, n in c.items() if name.startswith("malformed_"))
    types = {name: c[f"good_{name}"] for name in schemas.EVENT_TYPE_CODES}
    assert c["good_events"] == sum(types.values())
    asked = SMALL["generate.events"]
    assert asked * 0.8 < c["events"] < asked * 1.2


def test_rates_are_near_the_settings(written: Written) -> None:
    c = written.log.counts
    for kind in ("exact_duplicate", "near_duplicate", "malformed", "unknown_type", "clock_skew"):
        found = c.get(kind, c.get(f"{kind}s", 0)) / c["events"]
        assert found == pytest.approx(SMALL[f"generate.{kind}_rate"], rel=0.35)


def test_late_events_come_one_to_three_days_after_and_skewed_ones_before(
    written: Written,
) -> None:
    days: dict[str, set[int]] = {}
    for line in written.lines:
        if line.said:
            days.setdefault(kind_of(line), set()).add((line.folder - line.ts.date()).days)
    assert days["late"] == {1, 2, 3}
    assert days["clock_skew"] <= {-2, -3, -4, -5}
    assert days["on_time"] == {0}


def test_lines_are_in_order_of_time_within_a_file(written: Written) -> None:
    for folder in {line.folder for line in written.lines}:
        moments = [line.ts for line in written.lines if line.folder == folder and line.said]
        assert moments == sorted(moments)


def test_fields_are_as_documented(written: Written) -> None:
    good = written.good
    assert {event["type"] for event in good} == set(schemas.EVENT_TYPE_CODES)
    for event in good:
        keys = {"user", "item", "type", "ts"}
        keys |= {"rating"} if event["type"] == "rating" else set()
        keys |= {"value"} if event["type"] == "purchase" else set()
        assert set(event) == keys
    catalogue = read_items(written.folder)
    prices = {event["item"]: event["value"] for event in good if "value" in event}
    assert prices
    assert all(float(catalogue[item]["price"]) == value for item, value in prices.items())


def test_catalogue_holds_every_item_once(written: Written) -> None:
    catalogue = read_items(written.folder)
    assert list(catalogue) == [f"i{n:06d}" for n in range(SMALL["generate.items"])]
    assert len({row["title"] for row in catalogue.values()}) == len(catalogue)
    assert len({row["category"] for row in catalogue.values()}) == SMALL["generate.categories"]


def test_no_item_occurs_before_its_birth(written: Written) -> None:
    born = {item: row["available_from"] for item, row in read_items(written.folder).items()}
    assert any(day > str(END - timedelta(days=4)) for day in born.values())
    assert all(event["ts"][:10] >= born[event["item"]] for event in written.good)


def test_popularity_is_unequal(written: Written) -> None:
    events = Counter(event["user"] for event in written.good)
    people = [event for event in written.good if events[event["user"]] < 200]
    counts = sorted(Counter(event["item"] for event in people).values(), reverse=True)
    top = sum(counts[: SMALL["generate.items"] // 10])
    assert 0.25 < top / sum(counts) < 0.8


def test_bots_are_few_and_busy(written: Written) -> None:
    users = Counter(event["user"] for event in written.good)
    median = sorted(users.values())[len(users) // 2]
    assert max(users.values()) > 20 * median
    assert 0 < written.log.counts["bot_events"] < 0.5 * written.log.counts["events"]


def test_next_item_follows_from_the_one_before(written: Written) -> None:
    """What a sequence model lives on: few successors take most of an item's transitions."""
    views: dict[str, list[tuple[str, str]]] = {}
    for event in written.good:
        if event["type"] == "view":
            views.setdefault(event["user"], []).append((event["ts"], event["item"]))
    followers: dict[str, Counter[str]] = {}
    for seen in views.values():
        items = [item for _, item in sorted(seen)]
        if len(items) < 200:  # not a bot
            for one, two in pairwise(items):
                followers.setdefault(one, Counter())[two] += 1
    often = [c for c in followers.values() if c.total() >= 20]
    share = sum(n for c in often for _, n in c.most_common(3)) / sum(c.total() for c in often)
    assert share > 0.4  # by chance, 3 of a category's 30 items


def spread_of_clicks(good: list[dict[str, Any]]) -> float:
    """How far items' shares of clicks lie apart: about 1 if every view is clicked alike."""
    busy = Counter(event["user"] for event in good)
    people = [event for event in good if busy[event["user"]] < 200]
    views, clicks = (
        Counter(event["item"] for event in people if event["type"] == kind)
        for kind in ("view", "click")
    )
    rate = clicks.total() / views.total()
    apart = [(clicks[item] - n * rate) ** 2 / (n * rate * (1 - rate)) for item, n in views.items()]
    return sum(apart) / len(apart)


def test_clicks_follow_taste_and_quality_where_the_settings_say_so(
    written: Written, spark: SparkSession, tmp_path: Path
) -> None:
    assert 0.7 < spread_of_clicks(written.good) < 1.4
    generate_log(spark, small(click_spread=3.0), str(tmp_path / "log"), END)
    lines = [line for line in read_lines(tmp_path / "log") if line.said and kind_of(line) in GOOD]
    assert spread_of_clicks([line.said for line in lines if line.said]) > 2.5


def test_a_part_of_the_tastes_drifts(spark: SparkSession) -> None:
    settings = small(users=400, categories=40, taste_days=7, days=30)
    world = build_world(settings, END)
    days, slots = (0, 6, 29), range(TASTES)
    tastes = [world.taste(F.col("id"), F.lit(s), F.lit(d)) for d in days for s in slots]
    rows = spark.range(400).select(*tastes).collect()
    start, week, month = ([row[i * TASTES : (i + 1) * TASTES] for row in rows] for i in range(3))
    changed = [
        sum(a[slot] != b[slot] for a, b in zip(start, month, strict=True)) / 400 for slot in slots
    ]
    assert changed[:2] == [0, 0]
    assert min(changed[2:]) > 0.7
    # Users drift on different days: some within the first week, never all.
    assert 0 < sum(a != b for a, b in zip(start, week, strict=True)) < 400


@pytest.mark.parametrize(("events", "files"), [(30, 1), (30 * LINES_PER_FILE, 1), (10**9, 134)])
def test_files_a_day_follow_from_the_events(events: int, files: int) -> None:
    assert files_per_day(events, 30) == files


def test_the_segment_of_users_says_something_about_their_tastes(written: Written) -> None:
    items = read_items(written.folder)
    header, *rows = (written.folder / "users.tsv").read_text(encoding="utf-8").splitlines()
    segments = dict(row.split("\t") for row in rows)
    assert header == "user\tsegment"
    assert {said["user"] for said in written.good} <= set(segments)
    together: dict[str, Counter[str]] = {}
    for said in written.good:
        category = items[said["item"]]["category"]
        together.setdefault(segments[said["user"]], Counter())[category] += 1
    assert 1 < len(together) <= SEGMENTS
    overall: Counter[str] = sum(together.values(), Counter())
    expected = {name: count / overall.total() for name, count in overall.items()}
    for counts in together.values():
        best = max(counts, key=lambda name: counts[name] / expected[name])
        assert counts[best] / counts.total() > 1.5 * expected[best]
