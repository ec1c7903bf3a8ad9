"""Lists: what the ranker makes of a history."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.ranking.approximate import build_clusters
from recsys.ranking.histories import Histories, pad_histories
from recsys.score.lists import rank_popular
from recsys.score.ranker import index_items, make_queries, rank_histories
from tests.ranked_users import HISTORIES, N, naive, popularity, random_model

pytestmark = pytest.mark.torch


def test_lists_are_those_of_a_naive_ranker() -> None:
    model = random_model()
    users = sorted(HISTORIES)
    lists = rank_histories(
        model,
        Histories([np.array(HISTORIES[user][0]) for user in users]),
        [np.array(HISTORIES[user][1]) for user in users],
        popularity(),
        N,
    )
    for row, user in enumerate(users):
        expected = naive(model, *HISTORIES[user], N)
        real = lists.items[row] > 0
        got = list(zip(lists.items[row][real], lists.from_model[row][real], strict=True))
        assert got == expected, user
        assert not lists.from_model[row][~real].any()


def test_a_list_does_not_depend_on_who_else_is_in_the_batch() -> None:
    model, users = random_model(), sorted(HISTORIES)
    histories = [np.array(HISTORIES[user][0]) for user in users]
    seen = [np.array(HISTORIES[user][1]) for user in users]
    together = rank_histories(model, Histories(histories), seen, popularity(), N)
    for row in range(len(users)):
        own = Histories([histories[row]])
        alone = rank_histories(model, own, [seen[row]], popularity(), N)
        assert (alone.items[0] == together.items[row]).all()
        finite = np.isfinite(alone.scores[0])
        assert alone.scores[0][finite] == pytest.approx(together.scores[row][finite], abs=1e-4)


def test_what_goes_with_a_skipped_item_is_skipped_with_it() -> None:
    histories = Histories(
        [np.array([9, 1, 2, 3]), np.array([9]), np.array([4, 9, 5])],
        [np.array([0, 3600, 7300, 36_000]), np.array([7200]), np.array([3599, 0, 7200])],
        [np.array([5, 1, 2, 3]), np.array([1]), np.array([4, 2, 1])],
    )
    found = pad_histories(histories, num_items=8, max_length=2)
    assert found["items"].tolist() == [[2, 3], [0, 0], [4, 5]]
    assert found["hours"].tolist() == [[2, 10], [0, 0], [0, 2]]
    assert found["event_types"].tolist() == [[2, 3], [0, 0], [4, 1]]
    assert set(pad_histories(Histories(histories.items), 8, 2)) == {"items"}


def test_nobody_to_rank_for_is_no_error() -> None:
    lists = rank_histories(random_model(), Histories([]), [], popularity(), N)
    assert lists.items.shape == (0, N)


def test_popular_items_tie_by_the_lower_index_and_leave_out_seen_and_dead_ones() -> None:
    lists = rank_popular(popularity(), [np.array([25]), np.arange(1, 24)], 5)
    assert lists.items.tolist() == [[3, 4, 24, 23, 22], [25, 24, 0, 0, 0]]


def test_clusters_are_searched_in_place_of_all_items() -> None:
    model, counts = random_model(items=2000), np.ones(2001, dtype=np.float32)
    histories = Histories([np.array([user, user + 1]) for user in range(1, 200)])
    index = index_items(model, counts)
    assert index is not None
    clusters = build_clusters(index).with_probes(5)
    given = (model, histories, histories.items, counts, 3)
    exact = rank_histories(*given, index=index)
    found = rank_histories(*given, index=index, clusters=clusters)
    (queries,) = make_queries(model, histories, histories.items)
    wanted = clusters.rank(queries.users, index, 3, queries.seen)
    assert (found.items == wanted.items.numpy()).all()
    assert (found.items != exact.items).any(), "something was not found"
