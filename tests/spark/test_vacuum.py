"""Retention, vacuum and leftovers: what is in use stays readable, the rest goes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession

from recsys import schemas
from recsys.config import load_settings
from recsys.errors import ConfigError, LakeError
from recsys.lake.in_use import began_under_way, find_pins
from recsys.lake.leftovers import find_leftovers, remove_leftovers
from recsys.lake.operations import FAILED, StageRun, record_run
from recsys.lake.publish import live_lists
from recsys.lake.retention import delete_expired, find_expired, retention_days
from recsys.lake.table_files import list_files, live_files
from recsys.lake.tables import Lake
from recsys.lake.vacuum import plan_vacuum
from recsys.schemas import Table
from tests.spark.kept_tables import (
    NIGHT,
    NOW_IS_ALL,
    content,
    note_night,
    put_live,
    rows,
    top_n,
    vacuum,
)

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Its path has what a pattern or a URL would take amiss."""
    root = tmp_path_factory.mktemp("house") / "a b%20[x]" / "lake"
    lake = Lake(spark, load_settings(None, [f'lake.root="{root}"', *NOW_IS_ALL]))
    note_night(lake, NIGHT)
    return lake


def test_retention_removes_old_nights_and_never_the_live_one(lake: Lake) -> None:
    section = lake.settings.lake.model_copy(update={"retention_days": {"gold/top_n": 2}})
    own = Lake(lake.spark, lake.settings.model_copy(update={"lake": section}))
    table, nights = schemas.GOLD_TOP_N, [NIGHT + timedelta(days=n) for n in range(4)]
    versions = [top_n(own, night) for night in nights]
    put_live(own, nights[1], versions[1])
    expired = find_expired(own, table, live_files(own, table))
    assert (expired.dates, expired.rows) == ((nights[0],), 5)
    delete_expired(own, table, expired)
    left = {row.run_date for row in own.read(table).select("run_date").collect()}
    assert left == set(nights[1:])
    assert find_expired(own, table, live_files(own, table)).dates == ()
    assert content(live_lists(own)) == content(own.read(table).where(f"run_date='{nights[1]}'"))
    # The live lists are read at the version that published them: vacuum leaves those files too.
    plan = plan_vacuum(own, table, find_pins(own), datetime.now(UTC))
    assert plan.pinned[versions[1]] <= plan.needed


def test_retention_settings_are_checked() -> None:
    def days(text: str, table: Table) -> int | None:
        return retention_days(load_settings(None, [f"lake.retention_days={text}"]), table)

    assert days("{}", schemas.BRONZE_EVENTS) == 30
    assert days("{bronze/events: null}", schemas.BRONZE_EVENTS) is None
    assert days("{silver/events: 400}", schemas.SILVER_EVENTS) == 400
    with pytest.raises(ConfigError, match="silver/user is no table with partitions by date"):
        days("{silver/user: 3}", schemas.BRONZE_EVENTS)
    with pytest.raises(ConfigError, match="bronze/events=0 must be 1 or more"):
        days("{bronze/events: 0}", schemas.BRONZE_EVENTS)


HISTORY = schemas.SILVER_USERS


@pytest.fixture(scope="module")
def history(lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, list[set[str]]]:
    """A lake whose silver/users was written ten times, and the files of each version."""
    section = {"root": str(tmp_path_factory.mktemp("history") / "a b%20c")}
    own = lake.settings.lake.model_copy(update=section)
    old, table = Lake(lake.spark, lake.settings.model_copy(update={"lake": own})), HISTORY
    old.replace(table, rows(lake.spark, table, 0, 20))
    files = [{file.name for file in live_files(old, table)}] * 2
    # At each checkpoint Delta forgets when files were removed, as it does after a week.
    lake.spark.sql(
        f"ALTER TABLE delta.`{old.path(table)}` SET TBLPROPERTIES "
        "('delta.deletedFileRetentionDuration' = 'interval 0 hours', "
        "'delta.checkpointInterval' = '3')"
    )
    for version in range(2, 10):
        write = old.append if version in (4, 8) else old.replace
        write(table, rows(lake.spark, table, 100 * version, 20))
        files.append({file.name for file in live_files(old, table)})
    return old, files


@settings(max_examples=4, deadline=None)
@given(used=st.sets(st.integers(0, 8), max_size=4))
def test_what_vacuum_would_remove_is_what_no_version_in_use_has(
    history: tuple[Lake, list[set[str]]], used: set[int]
) -> None:
    lake, files = history
    pins = {HISTORY.name: dict.fromkeys(used, "a test")}
    plan = plan_vacuum(lake, HISTORY, pins, datetime.now(UTC) + timedelta(seconds=1))
    needed = files[-1].union(*(files[version] for version in used))
    assert {file.name for file in plan.removable} == set().union(*files) - needed
    assert (plan.broken, set(plan.pinned)) == ({}, used)


def test_vacuum_keeps_every_version_in_use_and_removes_the_others(
    history: tuple[Lake, list[set[str]]],
) -> None:
    lake, files = history
    lake.replace(schemas.GOLD_TOP_N, rows(lake.spark, schemas.GOLD_TOP_N, 0, 1))
    # The two newest published nights, the two last ones that ran, and what is the newest.
    for back, version in ((9, 2), (5, 3), (4, 4)):
        put_live(lake, NIGHT - timedelta(days=back), 0, users=version)
    for back, version in ((3, 5), (2, 6), (1, 8)):
        note_night(lake, NIGHT - timedelta(days=back), silver__users=version)
    assert vacuum(lake, HISTORY) == 3  # of versions 0, 2 and 5
    stored = {file.name for file in list_files(lake, HISTORY)}
    assert stored == files[4] | files[6] | files[8] | files[9]
    firsts = {3: [300], 4: [300, 400], 6: [600], 8: [700, 800], 9: [900]}
    for version, starts in firsts.items():
        found = sorted(row.user_idx for row in lake.read(HISTORY, version).collect())
        assert found == [start + n for start in starts for n in range(20)]
    with pytest.raises(Exception, match=r"FAILED_READ_FILE"):
        lake.read(HISTORY, 2).collect()
    assert vacuum(lake, HISTORY) == 0
    assert [lake.can_read(HISTORY, version) for version in (4, 5)] == [True, False]


def test_young_files_stay_and_so_do_those_of_a_night_under_way(
    make_lake: Callable[..., Lake],
) -> None:
    lake, table = make_lake("lake.keep_nights=1"), schemas.SILVER_USERS
    for number in range(3):
        lake.replace(table, rows(lake.spark, table, number, 1))
    note_night(lake, NIGHT)
    now = datetime.now(UTC)
    assert plan_vacuum(lake, table, find_pins(lake), now).removable == []
    later = now + timedelta(hours=lake.settings.lake.vacuum_hours + 1)
    assert len(plan_vacuum(lake, table, find_pins(lake), later).removable) == 2
    assert began_under_way(lake, now) is None
    note_night(lake, NIGHT + timedelta(days=1), stage="build_gold")
    began = began_under_way(lake, now + timedelta(seconds=60))
    assert began is not None
    assert abs(began - now) < timedelta(seconds=60)
    assert began_under_way(lake, now + timedelta(hours=25)) is None
    record_run(lake, StageRun(NIGHT + timedelta(days=1), "train", FAILED, "f" * 64))
    assert began_under_way(lake, datetime.now(UTC)) == began  # it may be tried again
    note_night(lake, NIGHT + timedelta(days=2))
    assert began_under_way(lake, datetime.now(UTC)) is None
    record_run(lake, StageRun(NIGHT + timedelta(days=2), "export", FAILED, "f" * 64))
    assert began_under_way(lake, datetime.now(UTC)) is None  # its lists are live all the same


def test_nothing_is_removed_where_nobody_knows_what_is_in_use(
    make_lake: Callable[..., Lake],
) -> None:
    lake = make_lake()
    lake.replace(schemas.SILVER_USERS, rows(lake.spark, schemas.SILVER_USERS, 0, 1))
    with pytest.raises(LakeError, match="nobody knows which versions are in use"):
        find_pins(lake)


def test_old_checkpoints_and_half_files_go(tmp_path: Path) -> None:
    own = load_settings(None, [f"lake.root={tmp_path}"])
    made = {
        "_checkpoints/2026-01-01-0123456789ab/bundle/weights": True,
        "_checkpoints/2026-01-01-0123456789ab-ranker/result.json": True,
        "_checkpoints/2026-01-01-0123456789ab-pretraining/bundle/weights": True,
        "_checkpoints/2026-03-05-0123456789ab-ranker/result.json": False,
        "_checkpoints/2026-03-05-0123456789ab/state": False,  # a night that is kept
        "_checkpoints/2026-03-05-0123456789ab/.state.x7": True,
        "_checkpoints/my own folder/file": False,
        "silver/users/_delta_log/.00000000000000000007.json.5f.tmp": True,
        "silver/users/_delta_log/.00000000000000000007.json.crc": False,
    }
    for name in made:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    now, kept = datetime.now(UTC), {NIGHT}
    assert find_leftovers(own, kept, now) == []  # all young
    later = now + timedelta(hours=own.lake.vacuum_hours + 1)
    assert remove_leftovers(find_leftovers(own, kept, later)) >= 15
    assert {name: not (tmp_path / name).exists() for name in made} == made
    assert not (tmp_path / "_checkpoints/2026-01-01-0123456789ab").exists()
