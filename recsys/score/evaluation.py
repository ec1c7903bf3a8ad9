"""Models side by side on the hold-out, ranked by the code that also makes the published lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from pyspark.sql import functions as F

from recsys import schemas
from recsys.config import Evaluate
from recsys.lake.baselines import Factors
from recsys.lake.popularity import Popularity
from recsys.lake.tables import Lake
from recsys.models import ClickRanker, Recommender
from recsys.ranking import metrics
from recsys.ranking.histories import Histories
from recsys.ranking.neighbors import Neighbors, score_by_neighbors
from recsys.ranking.rules import ListRules
from recsys.ranking.top_n import flatten, rank_items
from recsys.score.ranker import rank_histories, rank_popular_lists

CUT_OFFS = (10, 20)
MAIN_METRIC = "ndcg_at_10"
_FAR_BELOW = 1e-12

IntArray = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Cases:
    """Users to compare models on; everything but ``targets`` happened before the hold-out.

    Attributes:
        user_idx: int [users].
        histories: last events of each user.
        seen: every item of each user before the hold-out.
        targets: items first touched in the hold-out.
        groups: of the users in a night's rules, int [users]; None where it has none.
    """

    user_idx: IntArray
    histories: Histories
    seen: Sequence[IntArray]
    targets: Sequence[IntArray]
    groups: IntArray | None = None


@dataclass(frozen=True)
class Report:
    """One model's figures: means, the interval of NDCG@10, and its value for each user."""

    name: str
    means: dict[str, float]
    interval: metrics.Interval
    per_user: npt.NDArray[np.float64]


def load_cases(lake: Lake, holdout_version: int, evaluate: Evaluate) -> Cases:
    """Held-out users with enough history, at most ``evaluate.max_users``, chosen by hash."""
    rows = (
        lake.read(schemas.GOLD_HOLDOUT, holdout_version)
        .where(F.col(schemas.LENGTH) >= evaluate.min_history_events)
        .orderBy(F.xxhash64(schemas.USER_IDX), schemas.USER_IDX)
        .limit(evaluate.max_users)
        .orderBy(schemas.USER_IDX)
        .toArrow()
    )

    def lists(name: str) -> list[IntArray]:
        return [np.asarray(values, dtype=np.int64) for values in rows.column(name).to_pylist()]

    events = (schemas.ITEMS, schemas.EVENT_TIMES, schemas.EVENT_TYPES)
    user_idx = np.array(rows.column(schemas.USER_IDX), dtype=np.int64)
    # A night of an older version of the lake has items alone.
    known = {name: lists(name) for name in events if name in rows.column_names}
    return Cases(
        user_idx,
        Histories(**known, user_idx=user_idx),
        lists(schemas.SEEN_ITEMS),
        lists(schemas.TARGETS),
    )


def evaluate_model(
    name: str,
    model: Recommender,
    cases: Cases,
    popularity: Popularity,
    evaluate: Evaluate,
    ranker: ClickRanker | None = None,
    rules: ListRules | None = None,
) -> Report:
    """A model and its ranker, through the ranking code of production (fallback and rules too)."""
    lists = rank_histories(
        model, cases.histories, cases.seen, popularity.recent, max(CUT_OFFS), ranker,
        rules=rules, groups=None if rules is None else cases.groups,
    )  # fmt: skip
    return _report(name, lists.items, cases, popularity, evaluate)


def evaluate_popularity(
    cases: Cases, popularity: Popularity, evaluate: Evaluate, rules: ListRules | None = None
) -> tuple[Report, Report]:
    """The same popular items for everybody, less what each has seen: of all days, of the last.

    They obey the rules, too, but for a diversity that compares the vectors of a model.
    """
    groups = None if rules is None else cases.groups
    ever, recent = (
        rank_popular_lists(values, cases.seen, max(CUT_OFFS), rules, groups).items
        for values in (popularity.ever, popularity.recent)
    )
    return (
        _report("popularity", ever, cases, popularity, evaluate),
        _report("recent_popularity", recent, cases, popularity, evaluate),
    )


def evaluate_factors(
    factors: Factors, cases: Cases, popularity: Popularity, evaluate: Evaluate
) -> Report:
    """Spark ALS's factors, every item ranked by the product of user and item vector."""
    items = torch.from_numpy(factors.items)
    users = torch.from_numpy(factors.users)
    unborn = torch.from_numpy(popularity.ever <= 0)
    found = []
    for at in range(0, len(cases.user_idx), 1024):
        scores = users[torch.from_numpy(cases.user_idx[at : at + 1024])] @ items.T
        scores[:, unborn] = -torch.inf
        found.append(rank_items(scores, max(CUT_OFFS), cases.seen[at : at + 1024]).items.numpy())
    return _report("spark_als", np.concatenate(found), cases, popularity, evaluate)


def evaluate_item_item(
    neighbors: Neighbors, cases: Cases, popularity: Popularity, evaluate: Evaluate
) -> Report:
    """What is near to what a user had; where that is too little, popular items follow."""
    unborn = torch.from_numpy(popularity.ever <= 0)
    # Below every link's weight: it decides among items that nothing links to the user.
    rest = torch.from_numpy(popularity.recent) * _FAR_BELOW
    found = []
    for at in range(0, len(cases.user_idx), 1024):
        histories = cases.histories.items[at : at + 1024]
        scores = score_by_neighbors(histories, neighbors) + rest
        scores[:, unborn] = -torch.inf
        found.append(rank_items(scores, max(CUT_OFFS), cases.seen[at : at + 1024]).items.numpy())
    return _report("item_item", np.concatenate(found), cases, popularity, evaluate)


def _report(
    name: str, items: IntArray, cases: Cases, popularity: Popularity, evaluate: Evaluate
) -> Report:
    hits = metrics.find_hits(items, flatten(cases.targets))
    candidates = int((popularity.ever > 0).sum())
    means: dict[str, float] = {}
    for k in CUT_OFFS:
        means[f"ndcg_at_{k}"] = float(metrics.ndcg(hits, k).mean())
        means[f"hr_at_{k}"] = float(metrics.hit_rate(hits, k).mean())
        means[f"mrr_at_{k}"] = float(metrics.mrr(hits, k).mean())
        means[f"coverage_at_{k}"] = metrics.coverage(items, candidates, k)
        means[f"novelty_at_{k}"] = metrics.novelty(items, popularity.ever, k)
    per_user = metrics.ndcg(hits, 10)
    interval = metrics.bootstrap_interval(per_user, evaluate.bootstrap_samples, seed=1)
    return Report(name, means, interval, per_user)


@dataclass(frozen=True)
class Gate:
    """Whether the new model may become the champion, and why."""

    passed: bool
    reason: str


def judge(new: Report, popularity: Report, champion: Report | None) -> Gate:
    """The new model must beat popularity and the champion on NDCG@10 of the same users."""
    value = new.means[MAIN_METRIC]
    if champion is None:
        return Gate(True, "first model")
    for rival in (popularity, champion):
        if value <= rival.means[MAIN_METRIC]:
            return Gate(
                False, f"{MAIN_METRIC} {value:.4f} ≤ {rival.name} {rival.means[MAIN_METRIC]:.4f}"
            )
    return Gate(True, f"{MAIN_METRIC} {value:.4f} > champion {champion.means[MAIN_METRIC]:.4f}")
