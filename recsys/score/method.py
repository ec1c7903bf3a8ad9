"""Exact or approximate: what a night's lists are made with, and why."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.config import Score
from recsys.errors import ConfigError
from recsys.lake.tables import Lake
from recsys.models import DotProductRecommender, Recommender
from recsys.ranking.approximate import ApproximateIndex, build_clusters
from recsys.ranking.recall import Queries, Recall, calibrate, least_users
from recsys.score.forecast import forecast, say_too_few
from recsys.score.pack import ScoringPack
from recsys.score.ranker import count_first, make_queries
from recsys.score.workers import read_users

_SAMPLED_USERS = 2048
_SALT = 7  # another choice by hash than that of partitions and parts


@dataclass(frozen=True)
class Search:
    """How a night's lists are ranked.

    Attributes:
        clusters: calibrated ones; None: lists are exact.
        reason: a sentence for the log.
        recall: of the clusters; None where nothing was measured.
    """

    clusters: ApproximateIndex | None
    reason: str
    recall: Recall | None = None

    @property
    def identity(self) -> str:
        """What lists depend on besides model and users; empty for exact ones."""
        return "" if self.clusters is None else self.clusters.identity

    @property
    def details(self) -> dict[str, str]:
        """For ops/runs."""
        found = {"method": "exact" if self.clusters is None else "approximate"}
        if self.clusters is not None and self.recall is not None:
            found["recall"] = f"{self.recall.mean:.4f}"
            found["recall at least"] = f"{self.recall.low:.4f}"
            found["recall users"] = str(self.recall.users)
            found["clusters"] = f"{self.clusters.probes} of {self.clusters.count}"
        return found


EXACT = Search(None, "lists are exact: score.method=exact")
NO_VECTORS = Search(None, "lists are exact: the model has no item vectors that could be compared")


def check_method(kind: type[Recommender], method: str, device: str = "cpu") -> None:
    """Refuse what a kind of model or a device can't do.

    Raises:
        ConfigError: lists are to be approximate, and the model has no item vectors, or they are
            made on GPUs.
    """
    if method != "exact" and device != "cpu":
        raise ConfigError(
            f"score.method={method} searches clusters on CPUs, and score.device is {device}",
            do="set score.method=exact, or score.device=cpu",
        )
    if method == "approximate" and not has_vectors(kind):
        raise ConfigError(
            f"score.method=approximate compares item vectors, which a {kind.__name__} has not",
            do="set score.method=exact, or auto, which takes exact lists for such a model",
        )


def has_vectors(kind: type[Recommender]) -> bool:
    """Whether a kind of model scores by item vectors."""
    return issubclass(kind, DotProductRecommender)


def count_cores(lake: Lake) -> int:
    """That rank at once: Spark's default parallelism."""
    return max(1, lake.spark.sparkContext.defaultParallelism)


def choose_search(
    score: Score, pack: ScoringPack, users: DataFrame, events: Sequence[str], cores: int
) -> Search:
    """What the settings say; approximate only with a recall that was measured.

    Args:
        score: with a method other than exact.
        pack: of the night, without clusters.
        users: of the night, as workers get them.
        events: columns of histories that the model looks at.
        cores: that will rank.
    """
    if pack.index is None or not len(pack.index):
        return Search(None, "lists are exact: no candidate has a vector that could be compared")
    queries = sample_queries(pack, users, events)
    n = count_first(score.n, pack.ranker, pack.rules)
    if score.method == "auto":
        found = forecast(pack.index, n, queries, score.recall, users.count(), cores)
        decided = found.decide()
        if not decided.approximate:
            return Search(None, f"lists are exact: {decided.reason}")
    return _build(pack, n, queries, score.recall)


def sample_queries(pack: ScoringPack, users: DataFrame, events: Sequence[str]) -> list[Queries]:
    """What ranking is asked for a sample of the users, the same ones night by night."""
    assert isinstance(pack.model, DotProductRecommender), "the pack has an index"
    groups = [name for name in users.columns if name == schemas.RULES_GROUP]
    ordered = users.orderBy(F.xxhash64(schemas.USER_IDX, F.lit(_SALT)), schemas.USER_IDX)
    wanted = dict.fromkeys([*events, schemas.SEEN_ITEMS, *groups])
    rows = ordered.limit(_SAMPLED_USERS).select(*wanted).toArrow().combine_chunks()
    if not rows.num_rows:
        return []
    given = read_users(rows.to_batches()[0], events)
    return make_queries(pack.model, given.histories, given.seen, pack.rules, given.groups)


def _build(pack: ScoringPack, n: int, queries: Sequence[Queries], target: float) -> Search:
    assert pack.index is not None
    sampled = sum(len(query.users) for query in queries)
    if sampled < least_users(target):
        return Search(None, f"lists are exact: {say_too_few(sampled, target)}")
    started = time.monotonic()
    clusters = build_clusters(pack.index)
    built = time.monotonic() - started
    found, recall = calibrate(clusters, pack.index, n, queries, target)
    said = f"recall {recall.mean:.4f}, at least {recall.low:.4f} by {recall.users:,} users"
    if found is None:
        reason = f"not even half of the {clusters.count:,} clusters reach score.recall={target}"
        return Search(None, f"lists are exact: {reason} ({said})", recall)
    return Search(
        found,
        f"lists are approximate: {found.probes:,} of {found.count:,} clusters for a user, {said} "
        f"(built in {built:,.1f} s, calibrated in {time.monotonic() - started - built:,.1f} s)",
        recall,
    )
