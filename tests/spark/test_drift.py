"""Schema drift of real logs: what is new is kept and told, what is lost stops the night."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys import schemas
from recsys.config import load_settings
from recsys.errors import InputError
from recsys.lake.drift import read_log_schemas
from recsys.lake.formats import LogFormat
from recsys.lake.tables import Lake
from recsys.steps.context import Context
from recsys.steps.etl import BUILD_SILVER, INGEST
from recsys.steps.runner import run_night
from tests.spark.tiny_logs import DAY, NUMBERED, csv_format, event, log_format, write_json

pytestmark = [pytest.mark.spark, pytest.mark.long]

NEXT = DAY + timedelta(days=1)
Records = list[dict[str, Any]]


def records(day: date, **more: Any) -> Records:
    """Twelve events of a day; every fourth has a rating, every second a value."""
    found = []
    for n in range(12):
        optional = {"rating": 4} if n % 4 == 0 else {}
        optional |= {"value": 1} if n % 2 == 0 else {}
        kind = "rating" if n % 4 == 0 else "view"
        at = f"{day}T10:{n:02d}:00Z"
        found.append(event(f"u{n}", f"i{n}", at, kind, **{**optional, **more}))
    return found


class Logs:
    """A log of one format, a lake, and what runs a night up to silver."""

    def __init__(self, lake: Lake, folder: Path, log: LogFormat) -> None:
        self.lake, self.folder, self.log = lake, folder, log

    def write(self, day: date, rows: Records) -> None:
        folder = self.folder / f"dt={day}" if self.log.layout == "daily" else self.folder
        folder.mkdir(parents=True, exist_ok=True)
        if self.log.kind == "json":
            write_json(folder / "log.json", rows)
        elif self.log.kind == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), folder / "log.parquet")
        else:
            names = list(dict.fromkeys(name for row in rows for name in row))
            lines = [",".join(str(row.get(name, "")) for name in names) for row in rows]
            head = [",".join(names)] if self.log.header else []
            (folder / "log.csv").write_text("".join(f"{line}\n" for line in [*head, *lines]))

    def run(self, day: date, *overrides: str, silver: bool = True) -> list[str]:
        said: list[str] = []
        settings = load_settings(
            None, [f"lake.root={self.lake.settings.lake.root}", f"input.path={self.folder}",
                   *overrides]
        )  # fmt: skip
        lake = Lake(self.lake.spark, settings)
        context = Context(settings, self.log, day, lake, say=said.append)
        run_night(context, (INGEST, BUILD_SILVER) if silver else (INGEST,))
        return said

    def rows_of(self, table: schemas.Table, day: date) -> Sequence[Any]:
        return self.lake.read(table).where(f"ingest_date = '{day}'").collect()


FORMATS = {
    "json": log_format(layout="daily", files="dt={date}/*.json"),
    "csv": csv_format(layout="daily", files="dt={date}/*.csv"),
    "parquet": log_format(kind="parquet", layout="daily", files="dt={date}/*.parquet"),
}


@pytest.fixture
def logs(make_lake: Callable[..., Lake], tmp_path: Path, request: pytest.FixtureRequest) -> Logs:
    return Logs(make_lake(), tmp_path / "logs", FORMATS[request.param])


@pytest.mark.parametrize("logs", FORMATS, indirect=True)
def test_new_column_is_kept_and_told_and_a_lost_one_stops_the_night(logs: Logs) -> None:
    logs.write(DAY, records(DAY))
    assert not [line for line in logs.run(DAY) if "log's" in line]

    logs.write(NEXT, records(NEXT, device="phone"))
    said = logs.run(NEXT)
    assert [line for line in said if "the log's device is new (text, 100.0%): kept" in line]
    assert len(logs.rows_of(schemas.SILVER_EVENTS, NEXT)) == 12
    raw = [row[schemas.RAW] for row in logs.rows_of(schemas.BRONZE_EVENTS, NEXT)]
    assert sum("phone" in line for line in raw) == 12
    runs = logs.lake.read(schemas.OPS_RUNS).where("stage = 'ingest'").orderBy("run_date").collect()
    assert [row[schemas.DETAILS].get("new columns") for row in runs] == [None, "device"]

    third = NEXT + timedelta(days=1)
    lost = [{**row, "who": row["user"]} for row in records(third, device="phone")]
    lost = [{name: value for name, value in row.items() if name != "user"} for row in lost]
    logs.write(third, lost)
    with pytest.raises(InputError) as caught:
        logs.run(third)
    assert caught.value.what == f"the log's schema is not that of {NEXT}: user vanished"
    lines = caught.value.where.splitlines()
    assert any(line.split()[:2] == ["-", "user"] for line in lines), lines
    assert any(line.split()[:2] == ["+", "who"] for line in lines), lines
    assert f"recsys ingest --date {third} --accept-schema" in caught.value.do
    assert not logs.rows_of(schemas.SILVER_EVENTS, third)
    assert max(read_log_schemas(logs.lake, third)) == NEXT


def test_changed_type_fails_until_it_is_accepted_and_is_then_the_rule(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    logs = Logs(make_lake(), tmp_path / "logs", FORMATS["json"])
    days = [DAY + timedelta(days=n) for n in range(3)]
    logs.write(days[0], records(days[0], value=1))
    logs.run(days[0])
    for day in days[1:]:
        logs.write(day, records(day, value="2.5"))
    with pytest.raises(InputError, match="value is text, was number"):
        logs.run(days[1])
    assert not logs.rows_of(schemas.SILVER_EVENTS, days[1])
    said = logs.run(days[1], "ingest.accept_schema=true")
    assert any("value is text, was number: taken" in line for line in said)
    assert len(logs.rows_of(schemas.SILVER_EVENTS, days[1])) == 12
    # The night keeps what was accepted for it, and the next one is compared with it.
    assert all("done before" in line for line in logs.run(days[1]))
    logs.write(days[1], records(days[1], value="3.5"))
    logs.run(days[1])
    said = logs.run(days[2])
    assert not [line for line in said if "log's" in line]
    noted = read_log_schemas(logs.lake, days[2])
    assert [(noted[day].columns["value"].type, noted[day].accepted) for day in days] == [
        ("number", False), ("text", True), ("text", False)
    ]  # fmt: skip
    assert logs.lake.read(schemas.OPS_LOG_SCHEMAS).where(f"run_date = '{days[1]}'").count() == 6


def test_optional_and_widened_values_are_no_drift(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    """No rating for a night, null everywhere, whole numbers that become fractions, broken lines."""
    logs = Logs(make_lake("ingest.max_reject_share=1"), tmp_path / "logs", FORMATS["json"])
    logs.write(DAY, records(DAY, value=3, shop=None))
    logs.run(DAY)
    plain = [{**row, "type": "view"} for row in records(NEXT, value=2.5, shop=None)]
    for row in plain:
        row.pop("rating", None)
    logs.write(NEXT, plain)
    with (logs.folder / f"dt={NEXT}/log.json").open("a") as file:
        file.write("not json\n[1]\n{}\n5\n")
    said = logs.run(NEXT, "ingest.max_reject_share=1")
    assert not [line for line in said if "log's" in line]
    noted = read_log_schemas(logs.lake, NEXT)[NEXT]
    assert {name: str(column) for name, column in noted.columns.items()} == {
        "user": "text, 100.0%", "item": "text, 100.0%", "type": "text, 100.0%",
        "ts": "text, 100.0%", "value": "number, 100.0%",
    }  # fmt: skip


def test_column_of_one_record_in_a_hundred_is_seen(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    rows = [{**event(f"u{n}", "a", "10:00:00"), **({"rare": n} if n % 100 == 0 else {})}
            for n in range(45_000)]  # fmt: skip
    logs = Logs(make_lake(), tmp_path / "logs", log_format(files="*.json"))
    logs.write(DAY, rows)
    logs.run(DAY, silver=False)
    noted = read_log_schemas(logs.lake, DAY)[DAY]
    assert 20_000 <= noted.records <= 24_000  # 1 of 2 slices, by hash
    assert noted.columns["rare"].type == "number"
    assert noted.columns["rare"].share == pytest.approx(0.01, abs=0.004)


def test_snapshot_without_header_by_its_width(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    log = csv_format(header=False, columns=NUMBERED, files="*.csv")
    logs = Logs(make_lake(), tmp_path / "logs", log)
    names = ("user", "item", "type", "ts", "rating", "value")
    rows = [{name: row.get(name, "") for name in names} for row in records(DAY)]
    logs.write(DAY, rows)
    logs.run(DAY, silver=False)
    logs.write(DAY, [{k: v for k, v in row.items() if k != "value"} for row in rows])
    with pytest.raises(InputError, match="5 vanished"):
        logs.run(NEXT, silver=False)


def test_new_column_in_one_of_several_parquet_files_is_kept(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    """A catch-up night reads files of several days: the first one's columns are not all."""
    logs = Logs(make_lake(), tmp_path / "logs", FORMATS["parquet"])
    logs.write(DAY, records(DAY))
    logs.write(NEXT, records(NEXT, device="phone", at=datetime(2026, 3, 6)))
    logs.run(NEXT, silver=False)
    raw = [json.loads(row[schemas.RAW]) for row in logs.rows_of(schemas.BRONZE_EVENTS, NEXT)]
    assert sum(record.get("device") == "phone" for record in raw) == 12
    noted = read_log_schemas(logs.lake, NEXT)[NEXT].columns
    assert (noted["at"].type, noted["device"].type, noted["rating"].type) == (
        "time", "text", "number"
    )  # fmt: skip
