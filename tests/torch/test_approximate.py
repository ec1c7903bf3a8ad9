"""Approximate lists beside exact ones: what they must share, and how much they may miss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.ranking import approximate
from recsys.ranking.approximate import (
    ApproximateIndex,
    build_clusters,
    clusters_bytes,
    load_clusters,
)
from recsys.ranking.exact_scores import score_pairs
from recsys.ranking.exact_top_n import rank_products
from recsys.ranking.item_index import ItemIndex, build_index
from recsys.ranking.recall import (
    Queries,
    Recall,
    calibrate,
    least_users,
    lower_bound,
    measure_recall,
)
from recsys.ranking.top_n import IntArray
from tests import vectors

pytestmark = pytest.mark.torch

ITEMS, DIMS, N = 20_000, 16, 10
Draw = Callable[[int, int, int], tuple[Tensor, Tensor]]


def make(draw: Draw, users: int, items: int = ITEMS) -> tuple[ItemIndex, ApproximateIndex, Tensor]:
    found, given = draw(items, users, DIMS)
    rankable = torch.ones(items + 1, dtype=torch.bool)
    rankable[5:50] = False
    index = build_index(found, rankable)
    return index, build_clusters(index), given


def best_seen(index: ItemIndex, users: Tensor, counts: list[int]) -> list[IntArray]:
    """For each user what an exact list would begin with, and items that no list has."""
    best = rank_products(users, index, max(counts)).items.numpy()
    junk = np.array([0, 7, ITEMS + 99])
    return [np.concatenate([junk, best[u, : counts[u % len(counts)]]]) for u in range(len(users))]


@pytest.mark.parametrize("draw", [vectors.clustered, vectors.random])
def test_other_users_get_the_recall_that_was_asked_for(draw: Draw) -> None:
    index, clusters, users = make(draw, 3000)
    seen = best_seen(index, users, [0, 3, 40])
    ours, others = slice(0, 1000), slice(1000, 3000)
    queries = [Queries(users[ours], seen[ours], None)]
    found, recall = calibrate(clusters, index, N, queries, 0.97)
    assert found is not None
    assert recall.mean > recall.low >= 0.97
    rest = [Queries(users[others], seen[others], None)]
    exact = [rank_products(users[others], index, N, seen[others])]
    assert measure_recall(found, index, exact, rest).mean >= 0.97
    narrower = measure_recall(found.with_probes(max(1, found.probes // 4)), index, exact, rest)
    assert narrower.mean < 0.97, "fewer probes would have done"


def test_lists_are_whole_with_exact_scores_and_nothing_seen_or_hidden() -> None:
    index, clusters, users = make(vectors.clustered, 300)
    seen = best_seen(index, users, [0, 1, 30, 1500])
    shown = torch.ones(ITEMS + 1, dtype=torch.bool)
    shown[1 : ITEMS // 2] = False
    for mask in (None, shown):
        items, scores = clusters.with_probes(4).rank(users, index, N, seen, mask)
        assert (items > 0).all()
        for user in range(len(users)):
            own = items[user].tolist()
            assert len(set(own)) == N
            assert not set(own) & set(seen[user].tolist())
            assert mask is None or mask[items[user]].all()
            pairs = list(zip((-scores[user]).tolist(), own, strict=True))
            assert pairs == sorted(pairs), "best first, of equal ones the lower index"
        user = torch.arange(len(users)).repeat_interleave(N)
        rows = index.row_of[items.flatten()]
        exact = score_pairs(users, index.vectors, user, rows, index.longest)
        assert torch.equal(scores.flatten(), exact)


def test_all_clusters_give_the_exact_lists() -> None:
    index, clusters, users = make(vectors.clustered, 200)
    seen = best_seen(index, users, [0, 5])
    every = clusters.with_probes(clusters.count)
    items, scores = every.rank(users, index, N, seen)
    exact = rank_products(users, index, N, seen)
    assert torch.equal(items, exact.items)
    assert torch.equal(scores, exact.scores)


def test_whoever_would_get_a_short_list_is_ranked_exactly() -> None:
    index, clusters, users = make(vectors.random, 64, items=400)
    longer = 200  # than the items of a cluster
    found = clusters.with_probes(1).rank(users, index, longer)
    exact = rank_products(users, index, longer)
    assert torch.equal(found.items, exact.items)
    few = torch.zeros(401, dtype=torch.bool)
    few[100:103] = True
    hidden = clusters.with_probes(1).rank(users, index, N, None, few)
    assert torch.equal(hidden.items, rank_products(users, index, N, None, few).items)
    assert (hidden.items[:, 3:] == 0).all()


def test_broken_vectors_are_refused() -> None:
    index, clusters, users = make(vectors.random, 8, items=400)
    users[3, 2] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        clusters.rank(users, index, N)


def test_the_same_items_make_the_same_clusters_kept_or_not(tmp_path: Path) -> None:
    index, clusters, users = make(vectors.clustered, 100)
    lists = clusters.with_probes(3).rank(users, index, N)
    again = build_clusters(index).with_probes(3)
    assert torch.equal(again.rank(users, index, N).items, lists.items)
    again.save(tmp_path / "kept")
    kept = load_clusters(tmp_path / "kept")
    assert kept.identity == again.identity
    assert torch.equal(kept.rank(users, index, N).items, lists.items)
    size = sum(path.stat().st_size for path in (tmp_path / "kept").iterdir())
    assert size == pytest.approx(clusters_bytes(len(index), DIMS), rel=0.05)


def test_a_recall_that_cannot_be_proven_is_not_reached() -> None:
    index, clusters, users = make(vectors.random, 400)
    found, recall = calibrate(
        clusters, index, N, [Queries(users, [np.zeros(0, int)] * 400, None)], 1
    )
    assert found is None
    assert recall.low < 1.0
    few, recall = calibrate(clusters, index, N, [], 0.5)
    assert (few, recall) == (None, Recall(0.0, 0.0, 0))


def test_items_of_equal_scores_stand_for_each_other() -> None:
    """All the same: which ten of them a list has is chance, and all that matters is found."""
    index = build_index(torch.ones(501, DIMS), torch.ones(501, dtype=torch.bool))
    queries = [Queries(torch.ones(100, DIMS), [np.zeros(0, np.int64)] * 100, None)]
    found, recall = calibrate(build_clusters(index), index, N, queries, 0.9)
    assert recall.mean == 1.0
    assert found is not None
    items = found.rank(queries[0].users, index, N).items
    assert torch.equal(items, items.sort(dim=1).values), "of equal ones the lower index first"


def test_recall_is_the_share_of_the_exact_list_that_is_found() -> None:
    index, clusters, users = make(vectors.clustered, 200)
    exact = rank_products(users, index, N)
    found = clusters.with_probes(16).rank(users, index, N)
    pairs = zip(exact.items.tolist(), found.items.tolist(), strict=True)
    share = np.mean([len(set(best) & set(own)) / N for best, own in pairs])
    queries = [Queries(users[:50], [[]] * 50, None), Queries(users[50:], [[]] * 150, None)]
    parts = [type(exact)(*(column[at] for column in exact)) for at in (slice(50), slice(50, None))]
    recall = measure_recall(clusters.with_probes(16), index, parts, queries)
    assert recall.mean == pytest.approx(share)
    assert recall.users == 200
    assert 0.3 < share < 0.999


def test_only_who_has_seen_very_many_items_is_ranked_exactly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    index, clusters, users = make(vectors.clustered, 40)
    seen = best_seen(index, users, [0, 3, 60, 1500])
    ranked: list[int] = []

    def count(users: Tensor, *given: object) -> object:
        ranked.append(len(users))
        return rank_products(users, *given)

    monkeypatch.setattr(approximate, "rank_products", count)
    clusters.with_probes(8).rank(users, index, N, seen)
    assert ranked == [10]


def test_the_bound_is_wilsons() -> None:
    # Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662.
    assert lower_bound(81 / 263, 263) == pytest.approx(0.2553, abs=5e-5)
    assert lower_bound(1.0, least_users(0.99)) >= 0.99 > lower_bound(1.0, least_users(0.99) - 1)
