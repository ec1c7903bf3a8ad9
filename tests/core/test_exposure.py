"""Figures of a night's lists as a whole, by known answers."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.ranking.exposure import count_exposure, population_stability

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("shown", "catalogue", "gini", "coverage"),
    [
        ({3: 4}, 4, 0.0, 1.0),  # each item three times
        ({5: 1}, 4, 0.75, 0.25),  # all for one of four
        ({1: 2}, 4, 0.5, 0.5),
        ({}, 4, 0.0, 0.0),
        ({}, 0, 0.0, 0.0),
    ],
)
def test_known_exposures(
    shown: dict[int, int], catalogue: int, gini: float, coverage: float
) -> None:
    exposure = count_exposure(shown, catalogue)
    assert exposure.catalogue == catalogue
    assert exposure.gini() == pytest.approx(gini)
    assert exposure.coverage == coverage


@given(times=st.lists(st.integers(0, 30), min_size=1, max_size=40))
def test_gini_is_half_the_relative_mean_difference(times: list[int]) -> None:
    counts = Counter(count for count in times if count)
    exposure = count_exposure(dict(counts), len(times))
    differences = sum(abs(a - b) for a in times for b in times)
    total = 2 * len(times) * sum(times)
    assert exposure.gini() == pytest.approx(differences / total if total else 0.0, abs=1e-12)
    items, places = exposure.lorenz()
    assert (places <= items + 1e-12).all()


def test_stability_of_known_shares() -> None:
    before = np.arange(20.0)  # two bins of ten each, the median between
    now = np.array([0.0] * 5 + [19.0] * 15)
    p, q = 10.5 / 21, (5.5 / 21, 15.5 / 21)
    wanted = sum((share - p) * math.log(share / p) for share in q)
    assert population_stability(before, now, bins=2) == pytest.approx(wanted)


@given(
    values=st.lists(st.floats(-5, 5), min_size=1, max_size=50),
    shift=st.floats(20, 50),
)
def test_stability_is_0_for_the_same_and_grows(values: list[float], shift: float) -> None:
    before = np.array(values)
    assert population_stability(before, before) == 0.0
    assert population_stability(before, before + shift) >= 0.0
    assert population_stability(before, before[:0]) == 0.0
