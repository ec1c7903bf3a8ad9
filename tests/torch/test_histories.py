"""Histories as models take them: the newest known events, filled up with zeros."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.ranking.histories import Histories, pad_histories

pytestmark = pytest.mark.torch

KNOWN, HOUR = 5, 3600
EVENTS = st.lists(st.tuples(st.integers(-1, KNOWN + 2), st.integers(0, 9 * HOUR)), max_size=8)


@given(st.lists(EVENTS, max_size=5), st.integers(1, 4))
def test_each_row_ends_with_the_newest_known_events(
    users: list[list[tuple[int, int]]], longest: int
) -> None:
    items = [np.array([item for item, _ in own], dtype=np.int64) for own in users]
    times = [np.array([time for _, time in own], dtype=np.int64) for own in users]
    known = [[event for event in own if 0 < event[0] <= KNOWN][-longest:] for own in users]
    width = max([1, *map(len, known)])
    expected = [[(0, 0)] * (width - len(own)) + own for own in known]

    found = pad_histories(Histories(items, times, user_attributes=items), KNOWN, longest)
    assert found["items"].shape == (len(users), width)
    assert found["items"].tolist() == [[item for item, _ in row] for row in expected]
    assert found["hours"].tolist() == [[time // HOUR for _, time in row] for row in expected]
    most = max([1, *map(len, items)])
    filled = [[*own.tolist(), *[0] * (most - len(own))] for own in items]
    assert found["user_attributes"].tolist() == filled
