"""Top-n against a full sort written without any cleverness."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.ranking.top_n import RowsOf, flatten, rank_items

pytestmark = pytest.mark.torch


def rank_naively(scores: np.ndarray, n: int, seen: list[np.ndarray]) -> list[list[int]]:
    lists = []
    for row, known in zip(scores, seen, strict=True):
        items = [i for i in range(1, len(row)) if i not in set(known) and row[i] != -np.inf]
        best = sorted(items, key=lambda i: (-row[i], i))[:n]
        lists.append(best + [0] * (n - len(best)))
    return lists


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, int, list[np.ndarray]]:
    users, columns = draw(st.integers(1, 5)), draw(st.integers(1, 30))
    # Few different values, so that ties are everywhere.
    value = st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 0.25, 2.0, 3.0])
    row = st.lists(value, min_size=columns, max_size=columns)
    scores = draw(st.lists(row, min_size=users, max_size=users))
    known = st.lists(st.integers(0, columns + 3), max_size=columns)
    seen = draw(st.lists(known, min_size=users, max_size=users))
    arrays = [np.array(items, dtype=np.int64) for items in seen]
    return np.array(scores, dtype=np.float32), draw(st.integers(1, 12)), arrays


@given(cases())
def test_equals_a_full_sort(case: tuple[np.ndarray, int, list[np.ndarray]]) -> None:
    scores, n, seen = case
    ranked = rank_items(torch.from_numpy(scores.copy()), n, seen)
    assert ranked.items.tolist() == rank_naively(scores, n, seen)
    assert ranked.items.dtype == torch.int64
    assert ranked.scores.dtype == torch.float32
    for row, items, values in zip(scores, ranked.items, ranked.scores, strict=True):
        expected = [row[i] if i else -np.inf for i in items.tolist()]
        assert values.tolist() == expected


def test_batching_changes_nothing() -> None:
    scores = torch.randint(0, 5, (40, 300)).float()
    whole = rank_items(scores.clone(), 7).items
    parts = torch.cat([rank_items(scores[i : i + 3].clone(), 7).items for i in range(0, 40, 3)])
    assert torch.equal(whole, parts)


def test_ragged_and_lists_agree() -> None:
    seen = [np.array([2, 5]), np.array([], dtype=np.int64), np.array([1, 99])]
    scores = torch.rand(3, 8)
    first = rank_items(scores.clone(), 4, seen)
    assert torch.equal(first.items, rank_items(scores.clone(), 4, flatten(seen)).items)


def test_nan_is_refused_but_not_where_it_cannot_be_ranked() -> None:
    scores = torch.zeros(2, 6)
    scores[0, 0] = torch.nan
    scores[1, 3] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        rank_items(scores.clone(), 2)
    ranked = rank_items(scores, 2, [np.array([1]), np.array([3])])
    assert ranked.items.tolist() == [[2, 3], [1, 2]]


@pytest.mark.parametrize(("shape", "n"), [((2, 3), 0), ((6,), 2), ((2, 0), 2)])
def test_wrong_arguments_are_refused(shape: tuple[int, ...], n: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        rank_items(torch.zeros(shape), n)


def test_seen_of_another_number_of_users_is_refused() -> None:
    with pytest.raises(ValueError, match="seen has 1 rows"):
        rank_items(torch.zeros(2, 4), 1, [np.array([1])])


def test_rows_of_one_array_are_those_of_a_list() -> None:
    lists = [np.array(row, dtype=np.int32) for row in ([3, 1], [], [7], [2, 2, 9])]
    rows = RowsOf(np.array([0, 2, 2, 3, 6]), np.concatenate(lists))
    assert [row.tolist() for row in rows] == [row.tolist() for row in lists]
    assert rows[-1].tolist() == [2, 2, 9]
    for part in (slice(None), slice(1, 3), slice(2, 99), slice(3, 1), slice(9, 12)):
        assert [row.tolist() for row in rows[part]] == [row.tolist() for row in lists[part]]
        for one, other in zip(flatten(rows[part]), flatten(lists[part]), strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype == np.int64
    with pytest.raises(IndexError, match="no row 4 of 4"):
        rows[4]
    with pytest.raises(ValueError, match="do not follow each other"):
        rows[::2]
