"""Rows replaced in several commits: a run that was cut off goes on, and never mixes with others."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import DataFrame

from recsys import schemas
from recsys.errors import ConflictError
from recsys.lake.parts import replace_in_parts
from recsys.lake.tables import Lake

pytestmark = pytest.mark.spark

NIGHT = date(2026, 3, 5)
TABLE = schemas.GOLD_TOP_N
WHERE = f"run_date = '{NIGHT}'"


class Cut(Exception):
    """The process ends here."""


def frame(lake: Lake, users: list[str], day: date = NIGHT) -> DataFrame:
    rows: list[Any] = [(day, user, "1", []) for user in users]
    return lake.spark.createDataFrame(rows, TABLE.ddl)


def users_of(lake: Lake, day: date = NIGHT) -> list[str]:
    return sorted(row.user_id for row in lake.read(TABLE).where(f"run_date = '{day}'").collect())


def make_parts(lake: Lake, made: list[int], cut_before: int = 9) -> list[Callable[[], DataFrame]]:
    def make(number: int) -> DataFrame:
        if number == cut_before:
            raise Cut
        made.append(number)
        return frame(lake, [f"{number}a", f"{number}b"])

    return [lambda number=number: make(number) for number in range(3)]  # type: ignore[misc]


WHOLE = [f"{number}{letter}" for number in range(3) for letter in "ab"]


def test_a_run_that_was_cut_off_goes_on(make_lake: Callable[..., Lake]) -> None:
    lake, made = make_lake(), []
    lake.append(TABLE, frame(lake, ["old"]))
    files = Path(lake.path(TABLE)).glob("run_date=*/*.parquet")
    assert lake.size(TABLE, 0) == sum(file.stat().st_size for file in files)
    with pytest.raises(Cut):
        replace_in_parts(lake, TABLE, make_parts(lake, made, cut_before=2), WHERE, "k")
    assert users_of(lake) == WHOLE[:4]
    # Other nights' commits come between.
    other = NIGHT + timedelta(days=1)
    replace_in_parts(
        lake, TABLE, [lambda: frame(lake, ["x"], other)], f"run_date = '{other}'", "other"
    )
    commit = replace_in_parts(lake, TABLE, make_parts(lake, made), WHERE, "k")
    assert made == [0, 1, 2]
    assert users_of(lake) == WHOLE
    assert users_of(lake, other) == ["x"]
    assert (commit.rows, commit.version) == (6, lake.version(TABLE))
    # What is complete is done again where somebody asks for it.
    again = replace_in_parts(lake, TABLE, make_parts(lake, made), WHERE, "k")
    assert made == [0, 1, 2, 0, 1, 2]
    assert again.rows == 6
    assert users_of(lake) == WHOLE


def test_parts_of_other_settings_are_replaced(make_lake: Callable[..., Lake]) -> None:
    lake, made = make_lake(), []
    with pytest.raises(Cut):
        replace_in_parts(lake, TABLE, make_parts(lake, made, cut_before=1), WHERE, "k")
    replace_in_parts(lake, TABLE, make_parts(lake, made), WHERE, "another")
    assert made == [0, 0, 1, 2]
    assert users_of(lake) == WHOLE


def test_two_runs_do_not_mix(make_lake: Callable[..., Lake]) -> None:
    lake, made = make_lake(), []

    def run_meanwhile() -> None:
        replace_in_parts(lake, TABLE, make_parts(lake, []), WHERE, "another")

    def parts() -> list[Callable[[], DataFrame]]:
        first, second, third = make_parts(lake, made)

        def late() -> DataFrame:
            run_meanwhile()
            return second()

        return [first, late, third]

    with pytest.raises(ConflictError):
        replace_in_parts(lake, TABLE, parts(), WHERE, "k")
    assert users_of(lake) == WHOLE
    assert made == [0, 1]
