"""Running steps: what is recorded where one of them fails, and where one leaves nothing to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from recsys import schemas
from recsys.errors import LakeError
from recsys.lake.operations import CAUGHT_UP_BY, FAILED, SUCCEEDED, read_night
from recsys.lake.tables import Lake
from recsys.steps.context import Context, Outcome, Step
from recsys.steps.runner import run_night
from tests.spark.tiny_logs import DAY, log_format

pytestmark = pytest.mark.spark

STEPS = ("build_silver", "build_gold")


def make_step(name: str, run: Callable[[], Outcome]) -> Step:
    return Step(name, (), None, lambda _: run())


def test_a_table_that_cannot_be_checked_stops_the_night(make_lake: Callable[..., Lake]) -> None:
    lake, table = make_lake(), schemas.SILVER_EVENTS
    lake.append(table, lake.read(table))
    first = make_step(STEPS[0], lambda: Outcome("", tables_written={table.name: 99}))
    second = make_step(STEPS[1], lambda: Outcome(""))
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
        make_step(STEPS[1], second),
    )
    with pytest.raises(LakeError, match="no"):
        run_night(Context(lake.settings, log_format(), DAY, lake, say=lambda _: None), steps)
    assert {name: run.status for name, run in read_night(lake, DAY).runs.items()} == {
        STEPS[0]: SUCCEEDED,
        STEPS[1]: FAILED,
    }


def test_nothing_is_done_after_gold_that_was_left_no_events(make_lake: Callable[..., Lake]) -> None:
    lake, said = make_lake(), list[str]()
    steps = (
        make_step("build_gold", lambda: Outcome("none left", details={CAUGHT_UP_BY: "2026-03-07"})),
        make_step("train", lambda: pytest.fail("it was to be left out")),
    )
    for _ in range(2):  # the second time as a job of its own: it knows what is recorded
        context = Context(lake.settings, log_format(), DAY, lake, say=said.append)
        run_night(context, steps)
        steps = steps[1:]
    assert [line.split()[-3:] for line in said[1:]] == [["nothing", "to", "do"]] * 2
    assert list(read_night(lake, DAY).runs) == ["build_gold"]
    with pytest.raises(LakeError, match="the night of 2026-03-07 has read all events up to"):
        context.written("build_gold", schemas.GOLD_SEQUENCES)
