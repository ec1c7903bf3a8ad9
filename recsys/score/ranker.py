"""From histories to lists: the one path that evaluation and production share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recsys.models import ClickRanker, Recommender
from recsys.models.reranking import rerank
from recsys.ranking.histories import Histories, pad_histories
from recsys.ranking.top_n import IntArray, rank_items

MODEL_REASON = "model"
POPULAR_REASON = "popular"

_SCORES_AT_ONCE = 32_000_000


@dataclass(frozen=True)
class Lists:
    """Ranked lists; a list is shorter only where the catalogue has too few unseen items.

    Attributes:
        items: item_idx, int64 [users, n], best first; 0 = no item.
        scores: float32 [users, n]; for fallback items the popularity.
        from_model: bool [users, n]; False marks an item of the popularity fallback.
    """

    items: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    from_model: npt.NDArray[np.bool_]


def rank_histories(
    model: Recommender,
    histories: Histories,
    seen: Sequence[IntArray],
    popularity: npt.NDArray[np.float32],
    n: int,
    ranker: ClickRanker | None = None,
) -> Lists:
    """Rank the whole catalogue for each history; popularity fills what the model cannot.

    Args:
        model: of any kind.
        histories: events of each user, with what the model looks at; items newer than the model
            are skipped, and a user whom it does not know gets the fallback alone.
        seen: item_idx that must not be recommended to each user.
        popularity: float32 [items + 1], the catalogue of today; an item with 0 is no candidate.
        n: length of the lists.
        ranker: puts the model's first items in order (``ranker.config.candidates`` of them, at
            least n); None keeps the model's order.
    """
    size = max(1, _SCORES_AT_ONCE // len(popularity))
    parts = [
        _rank(
            model, histories.part(slice(at, at + size)), seen[at : at + size], popularity, n, ranker
        )
        for at in range(0, len(histories), size)
    ]
    if not parts:
        empty = np.zeros((0, n))
        return Lists(empty.astype(np.int64), empty.astype(np.float32), empty.astype(bool))
    return Lists(
        np.concatenate([part.items for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.from_model for part in parts]),
    )


def _rank(
    model: Recommender,
    histories: Histories,
    seen: Sequence[IntArray],
    popularity: npt.NDArray[np.float32],
    n: int,
    ranker: ClickRanker | None,
) -> Lists:
    num_items = model.config.num_items
    with torch.inference_mode():
        given = _inputs(model, histories)
        scores = model.score_items(given)
        scores[~model.knows(given)] = -torch.inf
        candidates = popularity[: num_items + 1] > 0
        scores[:, : len(candidates)][:, torch.from_numpy(~candidates)] = -torch.inf
        scores[:, len(candidates) :] = -torch.inf
        first = n if ranker is None else max(n, ranker.config.candidates)
        items, values = rank_items(scores.float(), first, seen)
        if ranker is not None:
            items, values = rerank(ranker, _inputs(ranker, histories), items, values)
    items, values = items[:, :n].contiguous().cpu(), values[:, :n].contiguous().cpu()
    return _fill(items.numpy(), values.numpy(), seen, popularity, n)


def _inputs(model: Recommender, histories: Histories) -> dict[str, Tensor]:
    """What a model is given, on its device."""
    device = next(model.parameters()).device
    inputs = pad_histories(histories, model.config.num_items, model.config.max_length)
    return {name: torch.from_numpy(part).to(device) for name, part in inputs.items()}


def _fill(
    items: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    seen: Sequence[IntArray],
    popularity: npt.NDArray[np.float32],
    n: int,
) -> Lists:
    from_model = items > 0
    for user in np.flatnonzero(~from_model.all(axis=1)):
        have = int(from_model[user].sum())
        taken = np.concatenate([np.asarray(seen[user], dtype=np.int64), items[user, :have]])
        more = rank_popular(popularity, [taken], n - have)
        items[user, have:], scores[user, have:] = more.items[0], more.scores[0]
    return Lists(items, scores, from_model)


def rank_popular(popularity: npt.NDArray[np.float32], seen: Sequence[IntArray], n: int) -> Lists:
    """The most popular unseen items of each user, ties by the lower index."""
    weights = torch.from_numpy(popularity).repeat(len(seen), 1)
    weights[weights <= 0] = -torch.inf
    best = rank_items(weights, n, seen)
    items = best.items.numpy()
    return Lists(items, best.scores.numpy(), np.zeros(items.shape, dtype=bool))
