"""`recsys lake`: the doctor names what is wrong; commands do what they said they would."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from recsys import schemas
from recsys.cli.main import main
from recsys.lake.table_files import list_files, live_files
from recsys.lake.tables import Lake
from tests.spark.kept_tables import (
    NIGHT,
    NOW_IS_ALL,
    note_night,
    put_live,
    rows,
)

pytestmark = pytest.mark.spark


def ask_doctor(lake: Lake, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main(["lake", "doctor", "--lake", lake.settings.lake.root, *NOW_IS_ALL, *more])
    return int(caught.value.code or 0), capsys.readouterr().out


def test_doctor_names_what_is_wrong_and_what_to_do(
    make_lake: Callable[..., Lake], capsys: pytest.CaptureFixture[str]
) -> None:
    lake, spark = make_lake(*NOW_IS_ALL), make_lake().spark
    events, users, top = schemas.SILVER_EVENTS, schemas.SILVER_USERS, schemas.GOLD_TOP_N
    for number in range(3):
        lake.append(events, rows(spark, events, number, 1))
    lake.append(events, rows(spark, events, 0, 20_000, event_date="date'2026-03-06'"))
    for number in range(3):
        lake.replace(users, rows(spark, users, number, 2000))
    lake.replace(top, rows(spark, top, 0, 1))
    put_live(lake, NIGHT, 0, users=2)
    note_night(lake, NIGHT, silver__users=2)
    code, out = ask_doctor(lake, capsys, "--json")
    found = {table["table"]: table for table in json.loads(out)["tables"]}
    assert code == 0
    assert [t["table"] for t in found.values()] == [t.name for t in schemas.TABLES]
    assert found["gold/ratings"]["version"] == -1
    mine = found["silver/events"]
    assert (mine["rows"], mine["files"], mine["row_groups"], mine["small_files"]) == (
        20_003, 4, 4, 3,
    )  # fmt: skip
    sizes = {f.name: f.size for f in live_files(lake, events)}
    assert mine["live_bytes"] == mine["stored_bytes"] == sum(sizes.values())
    small = sum(sizes.values()) - max(sizes.values())
    assert mine["skew"] == pytest.approx(max(sizes.values()) / (sum(sizes.values()) / 2))
    assert small < max(sizes.values())
    assert mine["do"] == ["recsys lake compact --table silver/events"]
    assert found["silver/users"]["do"] == ["recsys lake vacuum --table silver/users"]
    assert (found["silver/users"]["oldest"], found["silver/users"]["version"]) == (0, 2)
    lost = max(sizes, key=lambda name: sizes[name])
    (Path(lake.path(events)) / lost).unlink()
    note_night(lake, NIGHT, silver__users=77)
    lake.append(schemas.OPS_PUBLISHED, lake.read(schemas.OPS_PUBLISHED))
    code, out = ask_doctor(lake, capsys)
    assert code == 1
    flat = " ".join(out.split())
    assert f"recsys lake vacuum --table silver/users --lake {lake.settings.lake.root}" in flat
    assert f"silver/events: 1 of 4 files of the newest version are missing, e.g. {lost}" in flat
    assert f"version 77 is in use and can't be read any more (publish of {NIGHT}" in flat
    assert f"{NIGHT} is published 2 times" in flat
    assert f"do: recsys publish --date {NIGHT} --force" in flat


def test_commands_say_what_they_would_do_and_then_do_it_once(
    make_lake: Callable[..., Lake], capsys: pytest.CaptureFixture[str]
) -> None:
    lake, table = make_lake(*NOW_IS_ALL), schemas.BRONZE_EVENTS
    for number in range(3):
        lake.append(table, rows(lake.spark, table, number, 1))
    old = rows(lake.spark, table, 0, 4, ingest_date=f"date'{NIGHT - timedelta(days=30)}'")
    lake.append(table, old)
    note_night(lake, NIGHT)

    def call(name: str, *more: str) -> str:
        with pytest.raises(SystemExit) as caught:
            main(["lake", name, "--lake", lake.settings.lake.root, "--table", table.name,
                  *NOW_IS_ALL, *more])  # fmt: skip
        assert not caught.value.code
        return capsys.readouterr().out

    assert "would delete 1 dates (2026-02-03 to 2026-02-03), 4 rows" in call(
        "retention", "--dry-run"
    )
    assert "would compact 3 small files of 1 partitions" in call("compact", "--dry-run")
    assert lake.version(table) == 3
    assert "deleted 1 dates" in call("retention")
    assert "3 files became 1" in call("compact")
    assert "4 files" in call("vacuum", "--dry-run")
    assert len(list_files(lake, table)) == 5
    assert "4 files; keeps versions from 5; 2 of them checked, whole" in call("vacuum")
    version = lake.version(table)
    assert "nothing to do" in call("compact")
    assert "deleted 0 dates" in call("retention")
    assert "freed 0 B" in call("vacuum")
    assert lake.version(table) == version
    assert lake.read(table).count() == 3
