"""Bronze to silver: duplicates once, pseudonyms, indices that never change."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from recsys import schemas
from recsys.config import load_settings
from recsys.errors import InputError
from recsys.lake.pseudonyms import KEY_VARIABLE, pseudonym
from recsys.lake.silver import SilverCounts, build_silver
from recsys.lake.tables import Lake
from tests.spark.tiny_logs import DAY, build, event, ingest, log_format, write_json

pytestmark = pytest.mark.spark

KEY = "a key of this module, sixteen bytes or more"
NEXT = DAY + timedelta(days=1)
SILVER = (schemas.SILVER_EVENTS, schemas.SILVER_USERS, schemas.SILVER_ITEMS,
          schemas.SILVER_USER_VAULT, schemas.BRONZE_REJECTS)  # fmt: skip


def snapshot(lake: Lake) -> dict[str, list[str]]:
    return {t.name: sorted(map(repr, lake.read(t).select(*t.names).collect())) for t in SILVER}


@dataclass(frozen=True)
class Nights:
    """What two nights did: the lake as it is now, the counts, the rows after the first night."""

    lake: Lake
    logs: Path
    counts: tuple[SilverCounts, SilverCounts]
    after_first: dict[str, list[str]]
    vault: Path


CATALOGUED = log_format(
    layout="daily",
    files="dt={date}/*.json",
    items={
        "file": "items.csv", "delimiter": ",", "item_id": "id", "title": "name",
        "attributes": {"colour": "farbe"},
    },
)  # fmt: skip
FIRST = [
    event("raw-ännä", "a", "10:00:00"),
    event("raw-ännä", "a", "10:00:00"),  # exactly the same
    event("raw-ännä", "a", "10:00:02"),  # within two seconds
    event("raw-ännä", "a", "10:00:04"),  # within two seconds of the one before
    event("raw-ännä", "a", "10:00:06.000001"),  # not any more
    event("raw-ännä", "a", "10:00:00", "click"),  # another type
    event("raw-bob", "a", "10:00:00"),  # another user
    event("raw-bob", "b", "10:00:00", "rating", rating=3),
    event("raw-bob", "b", "11:00:00", "rating", rating=4),
]
SECOND = [
    event("raw-bob", "a", "10:00:00"),  # came yesterday
    event("raw-bob", "a", "2026-03-05T11:00:00+01:00"),  # the same moment in another zone
    event("raw-bob", "c", "09:00:00"),  # late: of yesterday, but new
    event("raw-cleo", "d", "2026-03-06T08:00:00Z", "purchase", value=9.5),
    event("raw-cleo", "a", "2026-03-07T00:04:59Z"),  # a clock a little ahead
]


@pytest.fixture(scope="module")
def nights(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Nights:
    folder = tmp_path_factory.mktemp("nights")
    logs, vault = folder / "logs", folder / "elsewhere/vault"
    settings = [f"lake.root={folder}/lake", f"lake.vault_root={vault}"]
    lake = Lake(spark, load_settings(None, settings))
    write_json(logs / f"dt={DAY}/log.json", FIRST)
    write_json(logs / f"dt={NEXT}/log.json", SECOND)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, KEY)
        (logs / "items.csv").write_text("id,name,farbe\na,Apple,red\nb,Bread,\na,Zebra,x\n")
        first = build(lake, CATALOGUED, logs)
        after = snapshot(lake)
        (logs / "items.csv").write_text("id,name,farbe\na,Apricot,gold\nb,Bread,\nd,Date,brown\n")
        second = build(lake, CATALOGUED, logs, NEXT, DAY)
    return Nights(lake, logs, (first, second), after, vault)


def test_duplicates_are_dropped_within_and_across_nights(nights: Nights) -> None:
    first, second = nights.counts
    assert (first.read, first.events, first.duplicates, first.rejects) == (9, 6, 3, 0)
    assert (second.read, second.events, second.duplicates, second.rejects) == (5, 3, 2, 0)
    assert (first.late, second.late) == (0, 1)
    events = nights.lake.read(schemas.SILVER_EVENTS).collect()
    assert len({row["event_id"] for row in events}) == len(events) == 9
    assert Counter(row["ingest_date"] for row in events) == {DAY: 6, NEXT: 3}
    late = next(row for row in events if row["item_id"] == "c")
    assert (late["event_date"], late["ingest_date"]) == (DAY, NEXT)
    assert {str(row["event_ts"].date()) for row in events} == {
        str(row["event_date"]) for row in events
    }


def test_indices_are_dense_append_only_and_never_reassigned(nights: Nights) -> None:
    first, second = nights.counts
    assert (first.new_users, first.new_items) == (2, 2)
    assert (second.new_users, second.new_items) == (1, 2)
    users = {r["user_id"]: r["user_idx"] for r in nights.lake.read(schemas.SILVER_USERS).collect()}
    items = {r["item_id"]: r["item_idx"] for r in nights.lake.read(schemas.SILVER_ITEMS).collect()}
    assert sorted(users.values()) == [1, 2, 3]
    assert users[pseudonym(KEY.encode(), "raw-cleo")] == 3
    assert sorted(items.values()) == [1, 2, 3, 4]
    assert {items["a"], items["b"]} == {1, 2}
    for row in nights.lake.read(schemas.SILVER_USERS, 0).collect():
        assert users[row["user_id"]] == row["user_idx"]
    for row in nights.lake.read(schemas.SILVER_ITEMS, 0).collect():
        assert items[row["item_id"]] == row["item_idx"]


def test_titles_follow_the_catalogue(nights: Nights) -> None:
    def titles(version: int | None) -> dict[str, Any]:
        rows = nights.lake.read(schemas.SILVER_ITEMS, version).collect()
        return {row["item_id"]: (row["title"], row["attributes"]) for row in rows}

    # Of two rows with one id the smaller title wins.
    assert titles(0) == {"a": ("Apple", {"colour": "red"}), "b": ("Bread", {"colour": None})}
    assert titles(None) == {
        "a": ("Apricot", {"colour": "gold"}),
        "b": ("Bread", {"colour": None}),
        "c": (None, None),
        "d": ("Date", {"colour": "brown"}),
    }


def test_raw_ids_and_the_key_lie_in_no_other_file_than_bronze_and_the_vault(
    nights: Nights,
) -> None:
    rows = nights.lake.read(schemas.SILVER_USER_VAULT).collect()
    vault = {row["raw_user_id"]: row["user_id"] for row in rows}
    raw = ["raw-ännä", "raw-bob", "raw-cleo"]
    assert vault == {user: pseudonym(KEY.encode(), user) for user in raw}
    assert (nights.vault / "_delta_log").is_dir()
    root = Path(nights.lake.settings.lake.root)
    assert not (root / schemas.SILVER_USER_VAULT.name).exists()
    secrets = [*(user.encode() for user in raw), b"raw-", KEY.encode(), KEY.encode().hex().encode()]
    files = [path for path in root.rglob("*") if path.is_file()]
    private = [path for path in files if not path.is_relative_to(root / "bronze/events")]
    assert len(private) > 10
    for path in private:
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret in content], path
    for path in files:
        assert KEY.encode() not in path.read_bytes()


def test_a_night_again_leaves_the_same_rows_even_after_compaction(
    nights: Nights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    lake, before = nights.lake, snapshot(nights.lake)
    versions = [lake.version(t) for t in (schemas.SILVER_USERS, schemas.SILVER_ITEMS)]
    # One file then holds events of both nights.
    lake.delta(schemas.SILVER_EVENTS).optimize().executeCompaction()
    first = build_silver(lake, CATALOGUED, str(nights.logs), None, DAY)
    second = build_silver(lake, CATALOGUED, str(nights.logs), DAY, NEXT)
    for again, once in zip((first, second), nights.counts, strict=True):
        assert (again.new_users, again.new_items) == (0, 0)
        assert (again.read, again.events, again.duplicates, again.late) == (
            once.read, once.events, once.duplicates, once.late
        )  # fmt: skip
    assert snapshot(lake) == before
    assert [lake.version(t) for t in (schemas.SILVER_USERS, schemas.SILVER_ITEMS)] == versions


def test_the_next_night_indexes_whom_a_killed_one_left_out(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    lake, root = make_lake(), tmp_path / "logs"
    write_json(root / "a.json", [event(f"u{n}", f"i{n}", "10:00:00") for n in range(5)])
    build(lake, log_format(), root)
    ids = (schemas.SILVER_USERS, schemas.SILVER_USER_VAULT, schemas.SILVER_ITEMS)
    whole = {table: {row[0] for row in lake.read(table).collect()} for table in ids}
    for table in ids:
        shutil.rmtree(lake.path(table))  # as if only the events had been committed
    lake.spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()
    counts = build(lake, log_format(), root, NEXT)  # catches up the day, all of it known
    assert (counts.events, counts.duplicates) == (0, 5)
    assert {table: {row[0] for row in lake.read(table).collect()} for table in ids} == whole


def test_a_large_day_is_written_by_several_tasks(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    lake, root = make_lake(), tmp_path / "logs"
    write_json(root / "a.json", [event(f"u{n}", f"i{n}", "10:00:00") for n in range(4000)])
    wanted = "spark.sql.adaptive.advisoryPartitionSizeInBytes"  # of the bytes that a task writes
    before = lake.spark.conf.get(wanted)
    lake.spark.conf.set(wanted, "64k")
    try:
        build(lake, log_format(), root)
    finally:
        lake.spark.conf.set(wanted, str(before))
    assert len(lake.read(schemas.SILVER_EVENTS).inputFiles()) > 1


@pytest.mark.parametrize("table", [schemas.SILVER_USERS, schemas.SILVER_USER_VAULT])
def test_the_next_try_adds_what_a_kill_left_out(
    make_lake: Callable[..., Lake], tmp_path: Path, table: schemas.Table
) -> None:
    lake, root = make_lake(), tmp_path / "logs"
    write_json(root / "a.json", [event(f"u{n}", "a", "10:00:00") for n in range(5)])
    build(lake, log_format(), root)
    whole = snapshot(lake)
    shutil.rmtree(lake.path(table))  # as if the process had ended before this table's commit
    lake.spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()
    build_silver(lake, log_format(), str(root), None, DAY)
    assert snapshot(lake) == whole


def test_silver_without_ingest_says_what_to_run_first(make_lake: Callable[..., Lake]) -> None:
    with pytest.raises(InputError) as caught:
        build_silver(make_lake(), log_format(), None, None, date(2026, 1, 1))
    assert caught.value.do == "run ingest for 2026-01-01 first"


def test_missing_catalogue_and_missing_column_are_input_errors(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    lake, root = make_lake(), tmp_path / "logs"
    write_json(root / f"dt={DAY}/a.json", FIRST)
    ingest(lake, CATALOGUED, root)
    with pytest.raises(InputError, match="the item catalogue is missing"):
        build_silver(lake, CATALOGUED, str(root), None, DAY)
    (root / "items.csv").write_text("id,title,farbe\na,b,c\n")
    with pytest.raises(InputError, match="the item catalogue has no column name") as caught:
        build_silver(lake, CATALOGUED, str(root), None, DAY)
    assert caught.value.where.endswith("items.csv has id, title, farbe")
    shutil.rmtree(root)
