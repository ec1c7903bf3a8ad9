"""Which differences of two log schemas are drift, and which are chance."""

from __future__ import annotations

import random
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.lake.drift import Drift, compare
from recsys.lake.log_schema import LogColumn, LogSchema

pytestmark = pytest.mark.core

NIGHT = date(2026, 3, 6)
MAPPED = frozenset({"user", "rating"})


def schema(records: int, days: int = 0, **columns: tuple[str, float]) -> LogSchema:
    found = {n: LogColumn(n, {kind: 1.0}, share) for n, (kind, share) in columns.items()}
    return LogSchema(NIGHT - timedelta(days=days), found, records)


def drift(before: LogSchema, after: LogSchema) -> Drift:
    found = compare({before.run_date: before}, after, MAPPED)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("share", "before", "after", "vanished"),
    [
        (0.01, 5000, 5000, True),  # 50 values are no chance
        (0.01, 1000, 1000, False),  # 10 may be
        (0.5, 60, 60, True),
        (0.5, 60, 3, False),  # a small night says little
        (1.0, 3, 3, True),  # what each record has is not optional
        (1.0, 2, 9, False),
    ],
)
def test_column_that_is_not_there_any_more(
    share: float, before: int, after: int, vanished: bool
) -> None:
    old = schema(before, 1, user=("text", 1.0), rating=("number", share))
    found = drift(old, schema(after, user=("text", 1.0)))
    assert found.vanished == (("rating",) if vanished else ())


@given(st.integers(1, 400), st.integers(1, 400), st.floats(0.001, 0.9), st.randoms())
def test_optional_column_of_one_share_never_vanishes_by_chance(
    before: int, after: int, share: float, dice: random.Random
) -> None:
    """Both nights draw from one log; the night fails once in a million at most."""
    counts = [sum(dice.random() < share for _ in range(n)) for n in (before, after)]
    if counts[1] == 0 and 0 < counts[0] < before:
        old = schema(before, 1, rating=("number", counts[0] / before))
        assert drift(old, schema(after)).vanished == ()


def test_type_changes_by_more_than_stray_values() -> None:
    old = schema(1000, 1, rating=("number", 0.2))
    for text, changed in ((1.0, True), (0.06, True), (0.04, False)):
        kinds = {"text": text, "number": 1 - text}
        new = LogSchema(NIGHT, {"rating": LogColumn("rating", kinds, 0.2)}, 1000)
        assert drift(old, new).changed == (("rating",) if changed else ())


def test_new_column_is_one_that_no_earlier_night_had() -> None:
    known = [schema(9, 2, user=("text", 1), device=("text", 0.1)), schema(9, 1, user=("text", 1))]
    after = schema(9, user=("text", 1.0), device=("text", 0.1), shop=("number", 1.0))
    found = compare({night.run_date: night for night in known}, after, MAPPED)
    assert found is not None
    assert found.new == ("shop",)
    assert found.faults("fail") == []


def test_both_schemas_stand_side_by_side_and_what_differs_is_marked() -> None:
    old = schema(10, 1, user=("text", 1.0), rating=("number", 0.5), shop=("text", 1.0))
    new = schema(10, rating=("text", 0.5), shop=("text", 1.0), device=("text", 1.0))
    assert drift(old, new).side_by_side() == "\n".join(
        [
            "       column             2026-03-05     2026-03-06",
            "    +  device (not read)                 text, 100.0%",
            "    !  rating             number, 50.0%  text, 50.0%",
            "       shop (not read)    text, 100.0%   text, 100.0%",
            "    -  user               text, 100.0%",
        ]
    )


def test_columns_that_nothing_reads_stop_the_night_unless_they_are_only_reported() -> None:
    old = schema(10, 1, user=("text", 1.0), shop=("text", 1.0))
    found = drift(old, schema(10, user=("number", 1.0)))
    assert found.faults("fail") == ["shop", "user"]
    assert found.faults("report") == ["user"]
