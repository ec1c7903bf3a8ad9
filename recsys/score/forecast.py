"""What exact and approximate lists would take, from small runs on the model's own vectors."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from recsys.ranking.approximate import (
    add_items,
    clusters_bytes,
    train_clusters,
    use_threads,
)
from recsys.ranking.exact_top_n import rank_products
from recsys.ranking.item_index import ItemIndex, build_index
from recsys.ranking.recall import Queries, Recall, calibrate, least_users
from recsys.ranking.top_n import RankedItems

SHORT_SECONDS = 60.0
"""Exact lists that take no longer need no index."""
_WORTH = 0.5
_TIMED_USERS = 256
_TRIED_ITEMS = 100_000
_SEED = 2


@dataclass(frozen=True)
class Trial:
    """An index of some of the candidates, and what it says about one of all.

    Attributes:
        candidates: that it was tried on.
        probes: clusters for a user that reach the recall; 0: half of them don't.
        recall: there, on the candidates tried.
        build_seconds: of all candidates, on the driver's machine; a forecast.
        rate: users a second on one core, among all candidates; a forecast.
    """

    candidates: int
    probes: int
    recall: Recall
    build_seconds: float
    rate: float


@dataclass(frozen=True)
class Decision:
    """What ``score.method=auto`` takes, and why."""

    approximate: bool
    reason: str


@dataclass(frozen=True)
class Forecast:
    """Seconds to rank a night's users; making their vectors and writing lists come on top.

    Attributes:
        users: to be ranked.
        candidates, dims: of the item vectors.
        cores: that rank.
        target: the recall that is asked for.
        sampled: users that were asked about.
        exact_rate: users a second on one core like this machine's, measured; 0: there was no user.
        trial: of clusters; None where exact lists are so quick that none was made.
    """

    users: int
    candidates: int
    dims: int
    cores: int
    target: float
    sampled: int
    exact_rate: float
    trial: Trial | None

    @property
    def exact_seconds(self) -> float:
        """Of all users on all cores."""
        return self.users / self.exact_rate / self.cores if self.exact_rate else 0.0

    @property
    def search_seconds(self) -> float:
        """Of all users on all cores, with the trial's probes."""
        return self.users / self.trial.rate / self.cores if self.trial else math.inf

    @property
    def clusters_bytes(self) -> int:
        """Of clusters of all candidates."""
        return clusters_bytes(self.candidates, self.dims)

    @property
    def obstacle(self) -> str | None:
        """Why lists can't be approximate, as far as the trial shows."""
        if self.sampled < least_users(self.target):
            return say_too_few(self.sampled, self.target)
        if self.trial is not None and not self.trial.probes:
            return (
                f"half of the clusters have a recall of {self.trial.recall.mean:.4f} (at least "
                f"{self.trial.recall.low:.4f}) in a trial, score.recall is {self.target}"
            )
        return None

    def decide(self) -> Decision:
        """What score.method=auto takes: approximate lists where they halve the time."""
        exact = f"exact lists for all users take {say_seconds(self.exact_seconds)} (forecast)"
        if self.exact_seconds <= SHORT_SECONDS or self.trial is None:
            return Decision(False, self.obstacle or f"{exact}: no index is worth its trouble")
        if self.obstacle is not None:
            return Decision(False, self.obstacle)
        build = self.trial.build_seconds
        other = (
            f"approximate ones {say_seconds(build)} to build an index and "
            f"{say_seconds(self.search_seconds)} to search it (forecast)"
        )
        if build + self.search_seconds > _WORTH * self.exact_seconds:
            return Decision(False, f"{exact}, {other}: that is not half of it")
        return Decision(True, f"{exact}, {other}")


def say_too_few(users: int, target: float) -> str:
    """Why so many users can't prove a recall."""
    return (
        f"{users:,} users whom the model knows are too few to measure a recall of {target} on "
        f"({least_users(target):,} are needed)"
    )


def forecast(
    index: ItemIndex,
    n: int,
    queries: Sequence[Queries],
    target: float,
    users: int,
    cores: int,
    *,
    thorough: bool = False,
) -> Forecast:
    """Time exact lists of some users, and clusters of some candidates if that may be worth it.

    Args:
        index: of all candidates, at least one.
        n: items that are ranked for a user.
        queries: a sample of users.
        target: the recall that is asked for.
        users: of the night.
        cores: that will rank.
        thorough: try clusters in any case.
    """
    sampled = sum(len(query.users) for query in queries)
    rate = 0.0
    if sampled:
        most = max(queries, key=lambda query: len(query.users))
        rate = _time(
            most, lambda query: rank_products(query.users, index, n, query.seen, query.shown)
        )
    found = Forecast(users, len(index), index.dims, cores, target, sampled, rate, None)
    quick = found.exact_seconds <= SHORT_SECONDS or sampled < least_users(target)
    if not sampled or (quick and not thorough):
        return found
    trial = _try(index, n, queries, target)
    return Forecast(users, len(index), index.dims, cores, target, sampled, rate, trial)


def _try(index: ItemIndex, n: int, queries: Sequence[Queries], target: float) -> Trial:
    """A trial on some candidates, without what users have seen and rules hide."""
    dice = np.random.default_rng(_SEED)
    count = min(len(index), _TRIED_ITEMS)
    rows = torch.from_numpy(np.sort(dice.choice(len(index), count, replace=False)))
    vectors = torch.cat([index.vectors.new_zeros((1, index.dims)), index.vectors[rows]])
    part = build_index(vectors, torch.ones(count + 1, dtype=torch.bool))
    users = torch.cat([query.users for query in queries])
    free = Queries(users, [np.zeros(0, dtype=np.int64)] * len(users), None)
    started = time.perf_counter()
    clusters = train_clusters(part)
    trained = time.perf_counter()
    add_items(clusters, part)
    added = time.perf_counter()
    found, recall = calibrate(clusters, part, n, [free], target)
    widest = found or clusters.with_probes(max(1, clusters.count // 2))
    rate = _time(free, lambda query: widest.rank(query.users, part, n, query.seen, query.shown))
    # Clusters are as many as the root of the items: what a round of k-means multiplies grows with
    # the items, looking for the clusters of all with their power of 1.5. A user is compared with
    # all centroids and with the items of as many clusters: both grow with the root.
    times = len(index) / count
    return Trial(
        count,
        found.probes if found else 0,
        recall,
        (trained - started) * times + (added - trained) * times**1.5,
        rate / math.sqrt(times),
    )


def _time(queries: Queries, rank: Callable[[Queries], RankedItems]) -> float:
    """Users a second of one thread's own time: what else runs on this machine does not count."""
    some = Queries(queries.users[:_TIMED_USERS], queries.seen[:_TIMED_USERS], queries.shown)
    with _one_thread():
        rank(Queries(some.users[:8], some.seen[:8], some.shown))
        started = time.thread_time()
        rank(some)
        return len(some.users) / (time.thread_time() - started)


@contextmanager
def _one_thread() -> Iterator[None]:
    torchs, others = torch.get_num_threads(), use_threads(1)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(torchs)
        use_threads(others)


def say_seconds(seconds: float) -> str:
    """Seconds, or minutes where they are many."""
    return f"{seconds:,.0f} s" if seconds < 600 else f"{seconds / 60:,.0f} min"
