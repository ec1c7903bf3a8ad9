"""Metrics against numbers worked out by hand."""

import math

import numpy as np
import pytest

from recsys.ranking import metrics
from recsys.ranking.metrics import find_hits

pytestmark = pytest.mark.core

# User 0: targets 3 and 9; hits at ranks 1 and 4. User 1: target 5, a hit at rank 3. User 2: target
# 8, none. User 3: no target.
RANKED = np.array([[3, 1, 2, 9], [4, 1, 5, 2], [1, 2, 3, 4], [1, 2, 3, 0]])
TARGETS = (np.array([0, 2, 3, 4, 4]), np.array([9, 3, 5, 8]))


@pytest.fixture
def hits() -> metrics.Hits:
    return find_hits(RANKED, TARGETS)


def test_hits_are_found_per_user(hits: metrics.Hits) -> None:
    expected = [[1, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(hits.matrix, np.array(expected, dtype=bool))
    assert hits.targets.tolist() == [2, 1, 1, 0]


def test_ndcg(hits: metrics.Hits) -> None:
    ideal_of_two = 1 + 1 / math.log2(3)
    first = (1 + 1 / math.log2(5)) / ideal_of_two
    np.testing.assert_allclose(metrics.ndcg(hits, 4), [first, 0.5, 0, 0])
    np.testing.assert_allclose(metrics.ndcg(hits, 1), [1, 0, 0, 0])
    # A cut-off beyond the list changes the ideal, not the gain.
    np.testing.assert_allclose(metrics.ndcg(hits, 10), [first, 0.5, 0, 0])


def test_hit_rate_recall_and_mrr(hits: metrics.Hits) -> None:
    np.testing.assert_allclose(metrics.hit_rate(hits, 2), [1, 0, 0, 0])
    np.testing.assert_allclose(metrics.hit_rate(hits, 3), [1, 1, 0, 0])
    np.testing.assert_allclose(metrics.recall(hits, 3), [0.5, 1, 0, 0])
    np.testing.assert_allclose(metrics.mrr(hits, 4), [1, 1 / 3, 0, 0])
    np.testing.assert_allclose(metrics.mrr(hits, 2), [1, 0, 0, 0])


def test_padding_is_never_a_hit() -> None:
    found = find_hits(np.array([[0, 0]]), (np.array([0, 1]), np.array([7])))
    assert not found.matrix.any()


def test_no_targets_at_all() -> None:
    found = find_hits(RANKED, (np.zeros(5, dtype=int), np.zeros(0, dtype=int)))
    assert metrics.ndcg(found, 10).tolist() == [0, 0, 0, 0]


def test_wrong_number_of_users_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit together"):
        find_hits(RANKED, (np.array([0, 1]), np.array([1])))


def test_coverage_counts_items_once_and_no_padding() -> None:
    ranked = np.array([[1, 2], [2, 0]])
    assert metrics.coverage(ranked, num_items=8, k=2) == 2 / 8
    assert metrics.coverage(ranked, num_items=8, k=1) == 2 / 8
    assert metrics.coverage(ranked[:1], num_items=8, k=1) == 1 / 8


def test_novelty_is_mean_surprisal_in_bits() -> None:
    # With one added event each: shares 4/8, 2/8, 1/8, 1/8.
    popularity = np.array([99, 3, 1, 0, 0])
    assert metrics.novelty(np.array([[1, 2]]), popularity, k=2) == pytest.approx((1 + 2) / 2)
    assert metrics.novelty(np.array([[1, 3], [4, 0]]), popularity, k=2) == pytest.approx(7 / 3)


def test_interval_has_the_normal_width() -> None:
    values = np.random.default_rng(0).normal(5.0, 2.0, 4000)
    interval = metrics.bootstrap_interval(values, samples=2000, seed=3)
    assert interval.mean == pytest.approx(values.mean())
    half_width = 1.96 * values.std() / math.sqrt(len(values))
    assert (interval.high - interval.low) / 2 == pytest.approx(half_width, rel=0.05)
    assert interval == metrics.bootstrap_interval(values, samples=2000, seed=3)
    assert interval != metrics.bootstrap_interval(values, samples=2000, seed=4)


def test_pairing_sees_a_small_steady_difference() -> None:
    base = np.random.default_rng(1).normal(0.0, 1.0, 300)
    difference = metrics.bootstrap_difference(base + 0.01, base, samples=200, seed=0)
    assert difference.low == pytest.approx(0.01)
    assert difference.high == pytest.approx(0.01)
    with pytest.raises(ValueError, match="differ in number"):
        metrics.bootstrap_difference(base, base[:-1], samples=10, seed=0)
    with pytest.raises(ValueError, match="at least one"):
        metrics.bootstrap_interval([], samples=10, seed=0)
