"""The generated log: same seed same bytes, true counts, and a world that behaves as promised."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys import schemas
from recsys.config import Generate, load_settings
from recsys.errors import ConfigError, InputError
from recsys.generate import GeneratedLog, generate_log
from recsys.generate import log as log_module
from recsys.generate.lines import LINES_PER_FILE, files_per_day
from recsys.generate.world import TASTES, build_world

pytestmark = pytest.mark.spark

END = date(2026, 3, 5)
SMALL = {
    "generate.events": 6000,
    "generate.users": 400,
    "generate.items": 240,
    "generate.days": 5,
    "generate.categories": 8,
    "generate.taste_days": 2,
    "generate.malformed_rate": 0.01,
    "generate.unknown_type_rate": 0.01,
    "generate.bad_rating_rate": 0.01,
    "generate.clock_skew_rate": 0.01,
    "generate.exact_duplicate_rate": 0.03,
    "generate.near_duplicate_rate": 0.03,
    "generate.late_rate": 0.05,
    "generate.bot_user_rate": 0.01,
}
TINY = {"generate.events": 100, "generate.days": 2}


def small(**changes: Any) -> Generate:
    given = {**SMALL, **{f"generate.{name}": value for name, value in changes.items()}}
    return load_settings(None, [f"{key}={value}" for key, value in given.items()]).generate


def tiny(**changes: Any) -> Generate:
    return small(events=100, days=2, **changes)


def digest(folder: Path) -> dict[str, str]:
    """Name to content hash of every file, hidden ones too."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@dataclass(frozen=True)
class Line:
    """One line as found: its folder's date and what it says (``None`` for broken JSON)."""

    folder: date
    text: str
    said: dict[str, Any] | None

    @property
    def ts(self) -> datetime:
        assert self.said is not None
        return datetime.fromisoformat(self.said["ts"])


def read_lines(folder: Path) -> Iterator[Line]:
    for path in sorted(folder.glob("dt=*/part-*.json.gz")):
        day = date.fromisoformat(path.parent.name.removeprefix("dt="))
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for text in lines:
                try:
                    said = json.loads(text)
                except ValueError:
                    said = None
                yield Line(day, text, said)


def kind_of(line: Line) -> str:
    """What ingest should find in a line, duplicates aside."""
    if line.said is None:
        return "malformed"
    if line.said["type"] not in schemas.EVENT_TYPE_CODES:
        return "unknown_type"
    if line.said.get("rating", 1) not in range(1, 6):
        return "bad_rating"
    days = (line.folder - line.ts.date()).days
    return "clock_skew" if days < 0 else "late" if days > 0 else "on_time"


@dataclass(frozen=True)
class Written:
    folder: Path
    log: GeneratedLog
    lines: list[Line]

    @property
    def good(self) -> list[dict[str, Any]]:
        return [line.said for line in self.lines if line.said and kind_of(line) in GOOD]


GOOD = ("on_time", "late")


@pytest.fixture(scope="module")
def written(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("generated") / "log"
    log = generate_log(spark, small(), str(folder), END)
    return Written(folder, log, list(read_lines(folder)))


def test_writes_one_folder_a_day_with_plain_names(written: Written) -> None:
    days = [str(END - timedelta(days=n)) for n in range(4, -1, -1)]
    expected = [f"dt={day}/part-00000.json.gz" for day in days]
    assert sorted(digest(written.folder)) == sorted(["_generated.json", *expected, "items.tsv"])


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
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=120)
    assert digest(tmp_path / "log") == digest(written.folder)


def test_another_seed_gives_another_log(spark: SparkSession, tmp_path: Path) -> None:
    logs = []
    for seed in (1, 2):
        generate_log(spark, tiny(seed=seed), str(tmp_path / str(seed)), END)
        logs.append([line.text for line in read_lines(tmp_path / str(seed))])
    assert logs[0]
    assert not set(logs[0]) & set(logs[1])


def test_manifest_counts_what_the_files_hold(written: Written) -> None:
    counts = written.log.counts
    found = Counter(kind_of(line) for line in written.lines)
    assert {kind: counts[kind] for kind in found if kind != "on_time"} == {
        kind: count for kind, count in found.items() if kind != "on_time"
    }
    assert set(found) == {"on_time", *(k for k in counts if k in found)}
    exact = Counter((line.folder, line.text) for line in written.lines)
    assert counts["exact_duplicates"] == sum(count - 1 for count in exact.values())
    assert counts["near_duplicates"] == count_near_duplicates(written.lines)
    assert counts["lines"] == len(written.lines)
    assert min(counts.values()) > 0


def count_near_duplicates(lines: list[Line]) -> int:
    """Same user, item and type again after more than 0 and at most 2 seconds."""
    moments: dict[tuple[str, str, str], set[datetime]] = {}
    for line in lines:
        if line.said and kind_of(line) in GOOD:
            key = (line.said["user"], line.said["item"], line.said["type"])
            moments.setdefault(key, set()).add(line.ts)
    ordered = [sorted(times) for times in moments.values()]
    pairs = [pair for times in ordered for pair in zip(times[:-1], times[1:], strict=True)]
    return sum(later - earlier <= timedelta(seconds=2) for earlier, later in pairs)


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


def read_items(folder: Path) -> dict[str, dict[str, str]]:
    header, *rows = (folder / "items.tsv").read_text(encoding="utf-8").splitlines()
    named = [dict(zip(header.split("\t"), row.split("\t"), strict=True)) for row in rows]
    return {row["item"]: row for row in named}


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
    counts = sorted(Counter(event["item"] for event in written.good).values(), reverse=True)
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
            for one, two in zip(items[:-1], items[1:], strict=True):
                followers.setdefault(one, Counter())[two] += 1
    often = [c for c in followers.values() if c.total() >= 20]
    share = sum(n for c in often for _, n in c.most_common(3)) / sum(c.total() for c in often)
    assert share > 0.4  # by chance, 3 of a category's 30 items


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


def test_same_settings_again_do_nothing(spark: SparkSession, written: Written) -> None:
    before = {path: path.stat().st_mtime_ns for path in written.folder.rglob("*")}
    said: list[str] = []
    again = generate_log(spark, small(), str(written.folder), END, progress=said.append)
    assert again == GeneratedLog(str(written.folder), False, written.log.counts)
    assert {path: path.stat().st_mtime_ns for path in written.folder.rglob("*")} == before
    assert said == [f"{written.folder} holds this log already"]


def test_other_settings_are_an_error_that_names_them(
    spark: SparkSession, written: Written
) -> None:
    with pytest.raises(InputError, match="seed is 7, asked for 8") as caught:
        generate_log(spark, small(seed=8), str(written.folder), END)
    assert "overwrite" in caught.value.do
    with pytest.raises(InputError, match="end_date is 2026-03-05, asked for 2026-03-06"):
        generate_log(spark, small(), str(written.folder), END + timedelta(days=1))


def test_overwrite_replaces_a_log_but_never_something_else(
    spark: SparkSession, tmp_path: Path
) -> None:
    folder = tmp_path / "log"
    generate_log(spark, tiny(seed=1), str(folder), END)
    before = digest(folder)
    assert generate_log(spark, tiny(seed=2), str(folder), END, overwrite=True).created
    assert digest(folder) != before
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match="something else than a generated log"):
        generate_log(spark, tiny(), str(tmp_path), END, overwrite=True)
    assert (tmp_path / "precious.txt").exists()


def test_a_failure_leaves_what_was_there(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "log"
    generate_log(spark, tiny(seed=1), str(folder), END)
    before = digest(tmp_path)

    def fail(*_: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr(log_module, "_write_items", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        generate_log(spark, tiny(seed=2), str(folder), END, overwrite=True)
    with pytest.raises(RuntimeError, match="disk full"):
        generate_log(spark, tiny(seed=2), str(tmp_path / "new"), END)
    assert digest(tmp_path) == before


def test_leftovers_of_a_killed_run_do_not_matter(spark: SparkSession, tmp_path: Path) -> None:
    leftover = tmp_path / "_log.writing" / "dt=2020-01-01" / "part-00000.json.gz"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half")
    generate_log(spark, tiny(), str(tmp_path / "log"), END)
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    assert not (tmp_path / "log" / "dt=2020-01-01").exists()


def test_impossible_settings_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="add up to"):
        generate_log(spark, small(late_rate=0.9, malformed_rate=0.9), str(tmp_path / "a"), END)
    with pytest.raises(ConfigError, match="events a user and day"):
        generate_log(spark, small(events=1_000_000, users=20), str(tmp_path / "a"), END)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("events", "files"), [(30, 1), (30 * LINES_PER_FILE, 1), (10**9, 134)]
)
def test_files_a_day_follow_from_the_events(events: int, files: int) -> None:
    assert files_per_day(events, 30) == files
