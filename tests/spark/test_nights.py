"""Nights that fail, come late or are run again: no day is lost, none is counted twice."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pytest

from recsys import schemas
from recsys.errors import InputError
from recsys.lake.operations import FAILED, SUCCEEDED, read_night
from recsys.lake.tables import Lake
from recsys.steps.context import Context
from recsys.steps.etl import BUILD_SILVER, INGEST
from recsys.steps.runner import run_night
from tests.spark.tiny_logs import DAY, event, log_format, write_json

pytestmark = [pytest.mark.spark, pytest.mark.long]

DAYS = [DAY + timedelta(days=n) for n in range(3)]
DAILY = log_format(layout="daily", files="dt={date}/*.json")


class Nights:
    """A log with one user a day, a lake, and what runs a night."""

    def __init__(self, lake: Lake, logs: Path) -> None:
        self.lake, self.logs = lake, logs
        for day in DAYS:
            self.write_day(day)

    def write_day(self, day: date, *lines: str) -> None:
        good = event(f"user of {day}", "a", f"{day}T10:00:00Z")
        write_json(self.logs / f"dt={day}/log.json", [good, *lines])

    def run(self, day: date, force: bool = False) -> list[str]:
        said: list[str] = []
        run_night(self._context(day, force, said), (INGEST, BUILD_SILVER))
        return said

    def _context(self, day: date, force: bool, said: list[str]) -> Context:
        section = self.lake.settings.input.model_copy(update={"path": str(self.logs)})
        settings = self.lake.settings.model_copy(update={"input": section})
        lake = Lake(self.lake.spark, settings)
        return Context(settings, DAILY, day, lake, force, say=said.append)

    def events(self) -> list[tuple[date, date]]:
        """event_date and ingest_date of every event."""
        rows = self.lake.read(schemas.SILVER_EVENTS).collect()
        return sorted((row[schemas.EVENT_DATE], row[schemas.INGEST_DATE]) for row in rows)


@pytest.fixture
def nights(make_lake: Callable[..., Lake], tmp_path: Path) -> Nights:
    return Nights(make_lake("privacy.pseudonyms=false"), tmp_path / "logs")


def test_a_day_whose_silver_failed_is_read_by_the_next_night(nights: Nights) -> None:
    nights.run(DAYS[0])
    nights.write_day(DAYS[1], "not json", "nor this")
    with pytest.raises(InputError, match="were rejected"):
        nights.run(DAYS[1])
    nights.write_day(DAYS[1])  # mended, but nobody runs that night again
    nights.run(DAYS[2])
    assert nights.events() == [(DAYS[0], DAYS[0]), (DAYS[1], DAYS[2]), (DAYS[2], DAYS[2])]
    # A backfill of that night finds its events in the lake. The later night, run again, reads the
    # days that it has read before.
    nights.run(DAYS[1])
    nights.run(DAYS[2], force=True)
    assert [day for day, _ in nights.events()] == DAYS
    assert all("done before" in line for line in nights.run(DAYS[2]))


def test_a_night_without_its_log_is_recorded_and_leaves_the_last_success(nights: Nights) -> None:
    nights.run(DAYS[0])
    done = read_night(nights.lake, DAYS[0]).runs
    nights.logs.rename(nights.logs.with_name("elsewhere"))
    with pytest.raises(InputError, match="does not exist"):
        nights.run(DAYS[0])
    failed = nights.lake.read(schemas.OPS_RUNS).where(f"status = '{FAILED}'").collect()
    assert [(row.stage, row.message) for row in failed] == [
        ("ingest", "the input path does not exist")
    ]
    assert {run.status for run in done.values()} == {SUCCEEDED}
    assert read_night(nights.lake, DAYS[0]).runs == done
