"""The narrowest approximate search that finds what it must, measured against exact lists."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from recsys.ranking.approximate import ApproximateIndex
from recsys.ranking.exact_top_n import rank_products
from recsys.ranking.item_index import ItemIndex
from recsys.ranking.top_n import IntArray, RankedItems

_Z = 1.96  # both sides 95%


class Queries(NamedTuple):
    """What ``rank_products`` is asked for some users: see there."""

    users: Tensor
    seen: Sequence[IntArray]
    shown: Tensor | None


class Recall(NamedTuple):
    """How much of exact lists is found.

    Attributes:
        mean: share of a list, over users.
        low: what the mean over all users is at least, with a confidence of 97.5%.
        users: that it was measured on.
    """

    mean: float
    low: float
    users: int


def calibrate(
    clusters: ApproximateIndex,
    index: ItemIndex,
    n: int,
    queries: Sequence[Queries],
    target: float,
) -> tuple[ApproximateIndex | None, Recall]:
    """The clusters with the fewest probes whose recall is surely at least ``target``.

    None where up to half of the clusters don't reach it: to search more is dearer than exact lists.

    Args:
        clusters: of the items of ``index``.
        n: length of the lists.
        queries: a sample of users, as they would be ranked.
        target: for ``Recall.low``.

    Returns:
        The clusters, and the recall with their probes; of None with the most.
    """
    exact = [rank_products(query.users, index, n, query.seen, query.shown) for query in queries]
    recall = Recall(0.0, 0.0, 0)
    for probes in _probes(clusters.count):
        tried = clusters.with_probes(probes)
        recall = measure_recall(tried, index, exact, queries)
        if recall.low >= target:
            return tried, recall
    return None, recall


def measure_recall(
    clusters: ApproximateIndex,
    index: ItemIndex,
    exact: Sequence[RankedItems],
    queries: Sequence[Queries],
) -> Recall:
    """Recall of users' lists, beside the exact ones.

    An item counts as found where its score is at least the last one of the exact list: which of
    equal items are in it says nothing.
    """
    shares = []
    for best, query in zip(exact, queries, strict=True):
        n = best.items.shape[1]
        found = clusters.rank(query.users, index, n, query.seen, query.shown)
        wanted = (best.items > 0).sum(dim=1)
        has = wanted > 0
        last = best.scores.masked_fill(best.items == 0, torch.inf).amin(dim=1)
        right = ((found.scores >= last[:, None]) & (found.items > 0)).sum(dim=1)
        shares.append(right[has].double() / wanted[has])
    every = torch.cat(shares) if shares else torch.zeros(0)
    if not len(every):
        return Recall(0.0, 0.0, 0)
    mean = float(every.mean())
    return Recall(mean, lower_bound(mean, len(every)), len(every))


def lower_bound(mean: float, users: int) -> float:
    """Of the mean of so many independent shares from 0 to 1, whose mean was ``mean``.

    Wilson's score interval (1927) takes them as 0 or 1: shares between vary less.
    """
    z = _Z * _Z / users
    spread = _Z * math.sqrt(mean * (1 - mean) / users + z / (4 * users))
    return (mean + z / 2 - spread) / (1 + z)


def least_users(target: float) -> int:
    """Users that must be asked so that finding everything proves ``target``, which is below 1."""
    return math.ceil(_Z * _Z * target / (1 - target))


def _probes(clusters: int) -> Iterator[int]:
    """1, 2, 3, 4, 6, 8, 12 ... up to half of the clusters."""
    probes, last = 1, max(1, clusters // 2)
    while probes < last:
        yield probes
        if probes > 1 and probes + probes // 2 < last:
            yield probes + probes // 2
        probes *= 2
    yield last
