"""From histories to lists: the one path that evaluation and production share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recsys.models import ClickRanker, DotProductRecommender, Inputs, Recommender
from recsys.models.reranking import rerank
from recsys.ranking.exact_top_n import rank_products
from recsys.ranking.histories import Histories, pad_histories
from recsys.ranking.item_index import ItemIndex, build_index
from recsys.ranking.top_n import PADDING_ITEM, IntArray, RankedItems, rank_items

MODEL_REASON = "model"
POPULAR_REASON = "popular"

SCORES_AT_ONCE = 32_000_000
_USERS_AT_ONCE = 512


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
    index: ItemIndex | None = None,
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
        index: what ``index_items`` makes of the model and ``popularity``, where somebody has kept
            it; None makes it.
    """
    first = n if ranker is None else max(n, ranker.config.candidates)
    with torch.inference_mode():
        stage, size = _first_stage(model, popularity, first, index)
        parts = [
            _rank(
                model, stage, histories.part(slice(at, at + size)), seen[at : at + size],
                popularity, n, ranker,
            )
            for at in range(0, len(histories), size)
        ]  # fmt: skip
    if not parts:
        empty = np.zeros((0, n))
        return Lists(empty.astype(np.int64), empty.astype(np.float32), empty.astype(bool))
    return Lists(
        np.concatenate([part.items for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.from_model for part in parts]),
    )


def index_items(
    model: Recommender, popularity: npt.NDArray[np.float32], folder: Path | None = None
) -> ItemIndex | None:
    """The candidates' vectors as ``exact_top_n`` takes them; None for a model without vectors.

    Args:
        model: of any kind.
        popularity: float32 [items + 1], the catalogue of today; an item with 0 is no candidate.
        folder: see ``build_index``.
    """
    if not isinstance(model, DotProductRecommender):
        return None
    with torch.inference_mode():
        vectors = model.item_vectors().float()
        rankable = model.known_items() & _candidates(model, popularity).to(vectors.device)
        return build_index(vectors, rankable, folder=folder)


def _candidates(model: Recommender, popularity: npt.NDArray[np.float32]) -> Tensor:
    """Items that the model knows and somebody may be shown, bool [num_items + 1]."""
    found = torch.zeros(model.config.num_items + 1, dtype=torch.bool)
    weights = torch.from_numpy(popularity[: len(found)] > 0)
    found[: len(weights)] = weights
    return found


_Stage = Callable[[Inputs, Sequence[IntArray]], RankedItems]


def _first_stage(
    model: Recommender, popularity: npt.NDArray[np.float32], n: int, index: ItemIndex | None
) -> tuple[_Stage, int]:
    """What ranks the model's items for some users, and for how many at once."""
    if not isinstance(model, DotProductRecommender):
        candidates = _candidates(model, popularity)

        def rank_scores(given: Inputs, seen: Sequence[IntArray]) -> RankedItems:
            scores = model.score_items(given)
            scores[:, ~candidates.to(scores.device)] = -torch.inf
            scores[~model.knows(given)] = -torch.inf
            return rank_items(scores.float(), n, seen)

        return rank_scores, max(1, SCORES_AT_ONCE // len(popularity))
    vectors = model.item_vectors()
    made = index_items(model, popularity) if index is None else index
    assert made is not None, "the model has vectors"

    def rank_vectors(given: Inputs, seen: Sequence[IntArray]) -> RankedItems:
        users = model.user_vectors(given, vectors).float()
        ranked = rank_products(users, made, n, seen)
        unknown = ~model.knows(given)
        ranked.items[unknown], ranked.scores[unknown] = PADDING_ITEM, -torch.inf
        return ranked

    return rank_vectors, _USERS_AT_ONCE


def _rank(
    model: Recommender,
    stage: _Stage,
    histories: Histories,
    seen: Sequence[IntArray],
    popularity: npt.NDArray[np.float32],
    n: int,
    ranker: ClickRanker | None,
) -> Lists:
    items, values = stage(_inputs(model, histories), seen)
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
