"""Item-item scores against plain sums."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.ranking.neighbors import group_links, score_by_neighbors

pytestmark = pytest.mark.torch

links = st.dictionaries(
    st.tuples(st.integers(1, 9), st.integers(1, 9)), st.floats(0.125, 4, width=16), max_size=30
)
histories = st.lists(st.lists(st.integers(0, 12), max_size=6), min_size=1, max_size=5)


@given(links, histories)
def test_scores_are_sums_over_the_history(
    found: dict[tuple[int, int], float], users: list[list[int]]
) -> None:
    pairs = np.array(list(found), dtype=np.int64).reshape(-1, 2)
    neighbors = group_links(pairs[:, 0], pairs[:, 1], np.array(list(found.values())), 9)
    scores = score_by_neighbors([np.array(user, dtype=np.int64) for user in users], neighbors)
    assert scores.shape == (len(users), 10)
    for user, row in zip(users, scores, strict=True):
        for item in range(10):
            expected = sum(found.get((had, item), 0.0) for had in set(user))
            assert row[item].item() == pytest.approx(expected)
