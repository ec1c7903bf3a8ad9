"""What a model is compared with: popularity, item-item and Spark ALS on the same split."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from recsys.benchmark.leave_one_out import LeaveOneOut
from recsys.benchmark.links import find_neighbors
from recsys.benchmark.measure import PARTS, K, measure
from recsys.config import Settings
from recsys.ranking.neighbors import group_links, score_by_neighbors
from recsys.ranking.top_n import IntArray, rank_items

_SCORES_AT_ONCE = 32_000_000
Figures = dict[str, dict[str, float]]
Scorer = Callable[[slice, Sequence[IntArray]], Tensor]
"""Scores float [users, num_items + 1] of some users, by their places and their histories."""


def run_baselines(parts: LeaveOneOut, num_items: int, settings: Settings) -> dict[str, Figures]:
    """NDCG@10 and HR@10 by baseline and part (validation, test).

    Nothing but ``parts.train`` is counted or trained on; histories are those that the model gets.
    """
    counts = np.bincount(np.concatenate(parts.train), minlength=num_items + 1)
    popularity = torch.from_numpy(counts.astype(np.float32))
    evaluate = settings.evaluate
    found = find_neighbors(
        parts.train, num_items, settings.model.neighbor_window, evaluate.item_neighbors
    )
    neighbors = group_links(*found, num_items)
    users, items = _train_als(parts, num_items, settings)

    def popular(at: slice, histories: Sequence[IntArray]) -> Tensor:
        return popularity.repeat(len(histories), 1)

    def item_item(at: slice, histories: Sequence[IntArray]) -> Tensor:
        return score_by_neighbors(histories, neighbors)

    def als(at: slice, histories: Sequence[IntArray]) -> Tensor:
        return users[at] @ items.T

    scorers = {"popularity": popular, "item_item": item_item, "spark_als": als}
    return {
        name: {part: _measure(score, parts, part, num_items) for part in PARTS}
        for name, score in scorers.items()
    }


def _measure(score: Scorer, parts: LeaveOneOut, part: str, num_items: int) -> dict[str, float]:
    """Rank every item for every user by ``score``, some users at a time."""
    histories, found = parts.histories(part), []
    size = max(1, _SCORES_AT_ONCE // (num_items + 1))
    for start in range(0, len(histories), size):
        at = slice(start, start + size)
        found.append(rank_items(score(at, histories[at]), K + 1, histories[at]))
    items, scores = (np.concatenate([best[n].numpy() for best in found]) for n in (0, 1))
    return measure(items, scores, parts.targets(part))


def _train_als(parts: LeaveOneOut, num_items: int, settings: Settings) -> tuple[Tensor, Tensor]:
    """Factors of users (by place in ``parts``) and items, float32."""
    import pyarrow as pa

    from recsys import schemas
    from recsys.lake.baselines import fit_als
    from recsys.lake.session import build_session

    users = np.repeat(np.arange(len(parts.train)), [len(items) for items in parts.train])
    pairs, counts = np.unique(
        np.stack([users + 1, np.concatenate(parts.train)]), axis=1, return_counts=True
    )
    table = pa.table(
        {
            schemas.USER_IDX: pa.array(pairs[0], pa.int32()),
            schemas.ITEM_IDX: pa.array(pairs[1], pa.int32()),
            schemas.EVENTS: pa.array(counts, pa.float32()),
        }
    )
    rows = build_session(settings, "recsys benchmark").createDataFrame(table)
    factors = fit_als(rows, settings.evaluate.als, len(parts.train), num_items)
    return torch.from_numpy(factors.users[1:]), torch.from_numpy(factors.items)
