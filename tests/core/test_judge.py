"""Drift of a night beside the last weeks: rings at a real change, is quiet at what chance does."""

from __future__ import annotations

import math
import random
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.checks import GREEN, RED, YELLOW, Fresh, Mix, RowRule, ShareRise, Volume
from recsys.lake.judge import (
    Past,
    judge_dense,
    judge_fresh,
    judge_mix,
    judge_rule,
    judge_share,
    judge_volume,
)

pytestmark = pytest.mark.core

NIGHT = date(2026, 3, 29)
VOLUME = Volume("event_date", yellow=1.5, red=2)
MIX = Mix("event_type", ("view", "click", "cart"), yellow=0.1, red=0.25)
SHARE = ShareRise("rejects", "read", yellow=0.01, red=0.05)


def nights(*values: float) -> list[Past]:
    """The nights before, oldest first."""
    first = NIGHT - timedelta(days=len(values))
    return [Past(first + timedelta(days=at), value) for at, value in enumerate(values)]


def mixes(*counts: tuple[int, int, int]) -> list[Past]:
    """Nights as ops/checks remembers them: by the figures that the judge itself has given."""
    found = [judge_mix(MIX, dict(zip(MIX.values, c, strict=True)), []) for c in counts]
    return [Past(NIGHT, verdict.value, verdict.figures) for verdict in found]


@pytest.mark.parametrize(
    ("rows", "status"),
    [(1000, GREEN), (1400, GREEN), (700, GREEN), (1600, YELLOW), (600, YELLOW), (2000, RED),
     (500, RED), (0, RED), (10_000, RED)],
)  # fmt: skip
def test_volume_beside_the_usual(rows: int, status: str) -> None:
    verdict = judge_volume(VOLUME, rows, nights(990, 1000, 1010, 1000), NIGHT)
    assert verdict.status == status
    assert verdict.value == rows


def test_volume_is_compared_with_the_same_weekday_once_there_are_three() -> None:
    """Half of the usual on Sundays, for four weeks: a Sunday is no fault, a Monday like it is."""
    month = nights(*[500 if at % 7 == 0 else 1000 for at in range(28)])
    assert judge_volume(VOLUME, 500, month, NIGHT).status == GREEN
    assert judge_volume(VOLUME, 500, month, NIGHT + timedelta(days=1)).status == RED


def test_first_nights_are_green_and_say_why() -> None:
    for verdict in (
        judge_volume(VOLUME, 1, nights(1000, 1000), NIGHT),
        judge_mix(MIX, {"view": 9, "click": 0, "cart": 0}, mixes((1, 5, 5), (1, 5, 5))),
        judge_share(SHARE, 50, 100, nights(0, 0)),
    ):
        assert verdict.status == GREEN
        assert "compared once 3 nights" in verdict.limit


@given(st.integers(min_value=20, max_value=1_000_000), st.randoms(use_true_random=False))
def test_counts_that_vary_by_chance_alone_do_not_ring(mean: int, dice: random.Random) -> None:
    """Within four standard deviations of a Poisson count there is no red night."""
    four = 4 * math.sqrt(mean)
    past = nights(*[mean + dice.uniform(-1, 1) * math.sqrt(mean) for _ in range(6)])
    if mean >= 100:
        assert judge_volume(VOLUME, round(mean + four), past, NIGHT).status != RED
    assert judge_volume(VOLUME, round(mean * 2.5), past, NIGHT).status == RED
    assert judge_volume(VOLUME, 0, past, NIGHT).status == RED


@given(st.integers(min_value=30, max_value=1000), st.randoms(use_true_random=False))
def test_mix_of_draws_from_one_mix_is_green(rows: int, dice: random.Random) -> None:
    def draw() -> tuple[int, int, int]:
        words = dice.choices(MIX.values, (0.7, 0.25, 0.05), k=rows)
        return words.count("view"), words.count("click"), words.count("cart")

    past = mixes(draw(), draw(), draw())
    counts = dict(zip(MIX.values, draw(), strict=True))
    assert judge_mix(MIX, counts, past).status == GREEN


@pytest.mark.parametrize(
    ("counts", "status", "distance"),
    [((70_000, 25_000, 5000), GREEN, 0), ((60_000, 35_000, 5000), GREEN, 0.1),
     ((50_000, 45_000, 5000), YELLOW, 0.2), ((95_000, 0, 5000), YELLOW, 0.25),
     ((30_000, 65_000, 5000), RED, 0.4)],
)  # fmt: skip
def test_mix_by_its_distance(counts: tuple[int, int, int], status: str, distance: float) -> None:
    past = mixes(*[(70_000, 25_000, 5000)] * 3)
    verdict = judge_mix(MIX, dict(zip(MIX.values, counts, strict=True)), past)
    assert (verdict.status, verdict.value) == (status, pytest.approx(distance))


@pytest.mark.parametrize(
    ("part", "status"), [(200, GREEN), (290, GREEN), (380, YELLOW), (760, RED), (0, GREEN)]
)
def test_share_that_rises(part: int, status: str) -> None:
    assert judge_share(SHARE, part, 10_000, nights(0.02, 0.02, 0.021)).status == status


def test_one_reject_among_few_records_is_no_drift() -> None:
    assert judge_share(SHARE, 1, 20, nights(0, 0, 0)).status == GREEN


@pytest.mark.parametrize(
    ("newest", "status"),
    [(datetime(2026, 3, 29, 23, 59), GREEN), (datetime(2026, 3, 29), GREEN),
     (datetime(2026, 3, 28, 23, 59), YELLOW), (datetime(2026, 3, 26, 23), RED), (None, YELLOW)],
)  # fmt: skip
def test_freshness(newest: datetime | None, status: str) -> None:
    moment = newest and newest.replace(tzinfo=UTC)
    assert judge_fresh(Fresh("event_ts", yellow=24, red=72), moment, NIGHT).status == status


@given(st.lists(st.integers(min_value=1, max_value=30), min_size=1, max_size=30))
def test_dense_is_green_for_1_to_n_alone(numbers: list[int]) -> None:
    is_dense = sorted(numbers) == list(range(1, len(numbers) + 1))
    group = ("f", len(numbers), min(numbers), max(numbers), sum(numbers))
    found = judge_dense([group], "source_offset").status
    if is_dense:
        assert found == GREEN
    elif len(set(numbers)) != len(numbers) - 1 or max(numbers) != len(numbers):
        return  # several faults may cancel out in the sum: one alone never does
    else:
        assert found == RED


def test_rule_with_an_allowed_share() -> None:
    rule = RowRule("few lack a value", "value is not null", YELLOW, allowed=0.1)
    assert [judge_rule(rule, n, 100).status for n in (0, 10, 11)] == [GREEN, GREEN, YELLOW]
