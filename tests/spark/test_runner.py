"""A step begins while the one before is checked and recorded, where it reads neither."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Event

import pytest

from recsys import schemas
from recsys.errors import LakeError
from recsys.lake.operations import FAILED, SUCCEEDED, read_night
from recsys.lake.tables import Lake
from recsys.steps.context import Context, Outcome, Step
from recsys.steps.runner import run_night
from tests.spark.tiny_logs import DAY, log_format

pytestmark = pytest.mark.spark

STEPS = ("build_silver", "build_gold")


def make_step(name: str, run: Callable[[], Outcome], overlaps: bool = False) -> Step:
    return Step(name, (), None, lambda _: run(), overlaps=overlaps)


def test_an_overlapping_step_begins_before_the_one_before_is_done(
    make_lake: Callable[..., Lake],
) -> None:
    lake, begun, said = make_lake(), Event(), list[str]()

    def say(line: str) -> None:
        # The first step is said to be done: by then the second one must have begun.
        if "first is done" in line:
            assert begun.wait(60), "the second step waited for the first one's record"
        said.append(line)

    def second() -> Outcome:
        begun.set()
        return Outcome("second is done")

    first = make_step(STEPS[0], lambda: Outcome("first is done"))
    context = Context(lake.settings, log_format(), DAY, lake, say=say)
    started = time.monotonic()
    runs = run_night(context, (first, make_step(STEPS[1], second, overlaps=True)))
    assert tuple(runs) == STEPS
    assert ["first is done" in said[0], "second is done" in said[1]] == [True, True], said
    recorded = read_night(lake, DAY).runs
    assert {name: recorded[name].status for name in STEPS} == dict.fromkeys(STEPS, SUCCEEDED)
    assert all(0 < recorded[name].seconds == runs[name].seconds for name in STEPS)
    assert sum(run.seconds for run in runs.values()) <= time.monotonic() - started


def test_any_other_step_finds_the_one_before_recorded(make_lake: Callable[..., Lake]) -> None:
    lake, found = make_lake(), list[str]()

    def second() -> Outcome:
        found.extend(read_night(lake, DAY).runs)
        return Outcome("")

    steps = (make_step(STEPS[0], lambda: Outcome("")), make_step(STEPS[1], second))
    run_night(Context(lake.settings, log_format(), DAY, lake, say=lambda _: None), steps)
    assert found == [STEPS[0]]


def test_a_table_that_cannot_be_checked_stops_the_night(make_lake: Callable[..., Lake]) -> None:
    lake, table = make_lake(), schemas.SILVER_EVENTS
    lake.append(table, lake.read(table))
    first = make_step(STEPS[0], lambda: Outcome("", tables_written={table.name: 99}))
    second = make_step(STEPS[1], lambda: Outcome(""), overlaps=True)
    context = Context(lake.settings, log_format(), DAY, lake, say=lambda _: None)
    with pytest.raises(LakeError, match="table silver/events can't be read"):
        run_night(context, (first, second))
    assert {name: run.status for name, run in read_night(lake, DAY).runs.items()} == {
        STEPS[0]: FAILED
    }


def test_a_step_that_fails_leaves_the_one_before_done(make_lake: Callable[..., Lake]) -> None:
    lake = make_lake()

    def second() -> Outcome:
        raise LakeError("no", where="here", do="that")

    steps = (
        make_step(STEPS[0], lambda: Outcome("")),
        make_step(STEPS[1], second, overlaps=True),
    )
    with pytest.raises(LakeError, match="no"):
        run_night(Context(lake.settings, log_format(), DAY, lake, say=lambda _: None), steps)
    assert {name: run.status for name, run in read_night(lake, DAY).runs.items()} == {
        STEPS[0]: SUCCEEDED,
        STEPS[1]: FAILED,
    }
