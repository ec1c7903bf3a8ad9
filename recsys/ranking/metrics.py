"""Ranking metrics: one value a user from ranked lists, figures of a whole catalogue, intervals.

Lists come from ``top_n.rank_items``: item_idx, int [users, n], best first, 0 = no item. Targets
are each user's relevant items, every one counted once. Everything is numpy and vectorised.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.ranking.top_n import IntArray, Ragged

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_RESAMPLED_VALUES_AT_ONCE = 4_000_000


class Hits(NamedTuple):
    """Which entries of ranked lists are relevant.

    Attributes:
        matrix: bool [users, n].
        targets: relevant items of each user, int64 [users].
    """

    matrix: BoolArray
    targets: npt.NDArray[np.int64]


class Interval(NamedTuple):
    """A mean over users with its bootstrap interval, in the unit of the metric."""

    mean: float
    low: float
    high: float


def find_hits(ranked: IntArray, targets: Ragged) -> Hits:
    """Mark the entries of ``ranked`` (int [users, n]) that are among the user's targets.

    Args:
        ranked: item_idx, best first; 0 is no item.
        targets: (offsets [users + 1], item_idx), duplicates within a user not allowed.

    Raises:
        ValueError: the numbers of users differ, or n is 0.
    """
    offsets, values = (np.asarray(part, dtype=np.int64) for part in targets)
    if ranked.ndim != 2 or ranked.shape[1] == 0 or len(offsets) != len(ranked) + 1:
        raise ValueError(
            f"ranked {ranked.shape} and targets of {len(offsets) - 1} users do not fit together"
        )
    counts = np.diff(offsets)
    # One sorted key a (user, item) pair: a look-up for all users at once.
    width = int(max(ranked.max(initial=0), values.max(initial=0))) + 1
    keys = np.sort(np.repeat(np.arange(len(counts)), counts) * width + values)
    wanted = np.arange(len(ranked))[:, None] * width + ranked
    at = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    found = keys[at] == wanted if len(keys) else np.zeros(ranked.shape, dtype=bool)
    return Hits(found & (ranked > 0), counts)


def put_behind_ties(
    ranked: IntArray, scores: npt.NDArray[np.floating[Any]], targets: IntArray
) -> IntArray:
    """The lists with each user's one target moved behind the items that score the same.

    So a tie counts against the target, and a model that scores all items alike hits nothing.
    Whether the target is among the first k is right where the lists are longer than k.

    Args:
        ranked: item_idx [users, n], best first.
        scores: of these items, descending [users, n].
        targets: item_idx [users].
    """
    moved = ranked.copy()
    for user, place in zip(*np.nonzero(ranked == np.asarray(targets)[:, None]), strict=True):
        last = int((scores[user] >= scores[user, place]).sum()) - 1
        moved[user, place:last] = ranked[user, place + 1 : last + 1]
        moved[user, last] = targets[user]
    return moved


def ndcg(hits: Hits, k: int) -> FloatArray:
    """Normalised discounted cumulative gain at k with binary relevance, one value a user [users].

    DCG = sum of 1 / log2(rank + 1) over hits; the ideal list holds min(targets, k) hits first.
    A user without targets gets 0. Source: Järvelin and Kekäläinen 2002, section 3, with the
    log2(rank + 1) discount that recommender papers use.
    """
    found = hits.matrix[:, :k]
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[0.0], np.cumsum(discounts)])[np.minimum(hits.targets, k)]
    gain = found @ discounts[: found.shape[1]]
    out: FloatArray = np.divide(gain, ideal, out=np.zeros(len(found)), where=ideal > 0)
    return out


def hit_rate(hits: Hits, k: int) -> FloatArray:
    """1 for a user with a hit among the first k, else 0; [users]. Also called HR@k.

    Source: Deshpande and Karypis 2004, section 6.2.
    """
    return hits.matrix[:, :k].any(axis=1).astype(np.float64)


def recall(hits: Hits, k: int) -> FloatArray:
    """Share of the user's targets among the first k, [users]; 0 without targets."""
    found = hits.matrix[:, :k].sum(axis=1)
    return np.divide(found, hits.targets, out=np.zeros(len(found)), where=hits.targets > 0)


def mrr(hits: Hits, k: int) -> FloatArray:
    """Reciprocal rank of the first hit among the first k (0 without one), [users].

    Source: Voorhees 1999, TREC-8 question answering track, section 2.
    """
    found = hits.matrix[:, :k]
    return np.where(found.any(axis=1), 1.0 / (found.argmax(axis=1) + 1), 0.0)


def coverage(ranked: IntArray, num_items: int, k: int) -> float:
    """Share of the catalogue that is in at least one list's first k, 0 to 1.

    Source: "catalog coverage" in Ge, Delgado-Battenfeld and Jannach 2010, section 3.1.
    """
    items = np.unique(ranked[:, :k])
    return float((items > 0).sum() / num_items) if num_items else 0.0


def novelty(ranked: IntArray, popularity: npt.ArrayLike, k: int) -> float:
    """Mean self-information of recommended items, -log2 of their share of all events, in bits.

    Args:
        ranked: item_idx [users, n].
        popularity: events of each item, [num_items + 1], entry 0 ignored. One event is added to
            every item, so that an item without events has a finite novelty.
        k: entries of each list that count.

    Source: Zhou et al. 2010 (PNAS 107), "surprisal"; Vargas and Castells 2011, section 4.1.
    """
    events = np.asarray(popularity, dtype=np.float64)[1:] + 1.0
    bits = -np.log2(events / events.sum())
    shown = ranked[:, :k]
    shown = shown[shown > 0]
    return float(bits[shown - 1].mean()) if len(shown) else 0.0


def bootstrap_interval(
    per_user: npt.ArrayLike, samples: int, seed: int, level: float = 0.95
) -> Interval:
    """Mean over users with its percentile bootstrap interval; users are resampled.

    Args:
        per_user: one value a user, [users], at least one.
        samples: resamples.
        seed: same seed and users, same interval.
        level: probability that the interval aims to cover.

    Raises:
        ValueError: there is no user.

    Source: Efron and Tibshirani 1993, section 13.3.
    """
    values = np.asarray(per_user, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"values of users must be [users] with at least one, not {values.shape}")
    generator = np.random.default_rng(seed)
    at_once = max(1, _RESAMPLED_VALUES_AT_ONCE // len(values))
    means = []
    for done in range(0, samples, at_once):
        shape = (min(at_once, samples - done), len(values))
        means.append(values[generator.integers(0, len(values), shape)].mean(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def bootstrap_difference(
    per_user: npt.ArrayLike, baseline: npt.ArrayLike, samples: int, seed: int, level: float = 0.95
) -> Interval:
    """Paired interval of ``per_user - baseline`` (both [users], same users in the same order).

    Pairing resamples users, not lists, so what makes a user easy for both models cancels out.

    Raises:
        ValueError: the numbers of users differ, or there is none.
    """
    first, second = np.asarray(per_user, np.float64), np.asarray(baseline, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired values differ in number: {first.shape} and {second.shape}")
    return bootstrap_interval(first - second, samples, seed, level)
