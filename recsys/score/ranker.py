"""From histories to lists: the one path that evaluation and production share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recsys.errors import ConfigError
from recsys.models import ClickRanker, DotProductRecommender, Inputs, Recommender
from recsys.models.reranking import rerank
from recsys.ranking.approximate import ApproximateIndex
from recsys.ranking.exact_top_n import rank_products
from recsys.ranking.histories import Histories, pad_histories, take
from recsys.ranking.item_index import ItemIndex, build_index
from recsys.ranking.recall import Queries
from recsys.ranking.rules import ListRules, Mask
from recsys.ranking.top_n import PADDING_ITEM, IntArray, RankedItems, rank_items
from recsys.score.lists import Lists, fill, join, obey, rank_popular

SCORES_AT_ONCE = 32_000_000
_USERS_AT_ONCE, EVENTS_AT_ONCE = 1024, 51_200
"""The more the fewer calls a user; of long histories fewer, for what a model makes of them."""


def rank_histories(
    model: Recommender,
    histories: Histories,
    seen: Sequence[IntArray],
    popularity: npt.NDArray[np.float32],
    n: int,
    ranker: ClickRanker | None = None,
    index: ItemIndex | None = None,
    rules: ListRules | None = None,
    groups: IntArray | None = None,
    clusters: ApproximateIndex | None = None,
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
            least n, and as many as rules look at); None keeps the model's order.
        index: what ``index_items`` makes of the model and ``popularity``, where somebody has kept
            it; None makes it.
        rules: what the lists obey, the fallback's items too; None: nothing.
        groups: each user's group in ``rules``, int [users]; None: all are of the first.
        clusters: of the items of ``index``, to search them approximately; None: exactly.

    Raises:
        ConfigError: rules compare the model's item vectors, and it has none.
    """
    check_vectors(type(model), rules)
    wide = n
    if rules is not None:
        popularity = np.where(rules.allowed, popularity, np.float32(0.0))
        wide = rules.width(n)
    with torch.inference_mode():
        index = index_items(model, popularity) if index is None else index
        first = count_first(n, ranker, rules)
        stage, size = _first_stage(model, popularity, first, index, clusters)
        parts, rows = [], []
        for at, group in _batches(len(histories), groups, size):
            given, own, left = histories.part(at), take(seen, at), popularity
            shown = None
            if rules is not None and len(rules.user_codes):
                shown = rules.shown_to(group)
                left = np.where(shown, popularity, np.float32(0.0))
            lists = _rank(model, stage, given, own, left, wide, ranker, shown)
            if rules is not None and rules.reorders:
                biases = model.biases if isinstance(model, DotProductRecommender) else 0
                lists = obey(rules, group, lists, own, left, n, index, biases)
            parts.append(lists)
            rows.append(np.arange(len(histories))[at])
    lists = join(parts, n)
    return lists if groups is None or not rows else lists.part(np.argsort(np.concatenate(rows)))


def count_first(n: int, ranker: ClickRanker | None, rules: ListRules | None) -> int:
    """Items that the model gives for lists of n, which a ranker and rules then choose from."""
    first = n if ranker is None else max(n, ranker.config.candidates)
    return first if rules is None else max(first, rules.width(n))


def rank_popular_lists(
    popularity: npt.NDArray[np.float32],
    seen: Sequence[IntArray],
    n: int,
    rules: ListRules | None = None,
    groups: IntArray | None = None,
) -> Lists:
    """Lists of ``rank_popular`` that obey rules as those of a model do.

    Where rules compare a model's vectors, here they don't. Arguments as for ``rank_histories``.
    """
    if rules is None:
        return rank_popular(popularity, seen, n)
    if rules.needs_vectors:
        rules = replace(rules, diversity=np.array(0.0))
    parts, rows = [], []
    for at, group in _batches(len(seen), groups, max(1, SCORES_AT_ONCE // len(popularity))):
        own, left = take(seen, at), np.where(rules.shown_to(group), popularity, np.float32(0.0))
        lists = rank_popular(left, own, rules.width(n))
        parts.append(obey(rules, group, lists, own, left, n) if rules.reorders else lists)
        rows.append(np.arange(len(seen))[at])
    lists = join(parts, n)
    return lists if groups is None or not rows else lists.part(np.argsort(np.concatenate(rows)))


def _batches(
    users: int, groups: IntArray | None, size: int
) -> Iterator[tuple[slice | IntArray, int]]:
    """Users of one group, at most ``size`` of them, and the group."""
    if groups is None:
        for at in range(0, users, size):
            yield slice(at, at + size), 0
        return
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        for at in range(0, len(rows), size):
            yield rows[at : at + size], int(group)


def check_vectors(kind: type[Recommender], rules: ListRules | None) -> None:
    """Refuse rules that a kind of model can't follow.

    Raises:
        ConfigError: rules compare the model's item vectors, and it has none.
    """
    if rules is not None and rules.needs_vectors and not issubclass(kind, DotProductRecommender):
        raise ConfigError(
            f"rules.rerank.diversity compares item vectors, which a {kind.__name__} has not",
            do="name a column of items in rules.rerank.diversity_column, or set "
            "rules.rerank.diversity=0",
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


_Stage = Callable[[Inputs, Sequence[IntArray], Mask | None], RankedItems]


def _first_stage(
    model: Recommender,
    popularity: npt.NDArray[np.float32],
    n: int,
    index: ItemIndex | None,
    clusters: ApproximateIndex | None,
) -> tuple[_Stage, int]:
    """What ranks the model's items for some users, and for how many at once."""
    if not isinstance(model, DotProductRecommender):
        candidates = _candidates(model, popularity)

        def rank_scores(given: Inputs, seen: Sequence[IntArray], shown: Mask | None) -> RankedItems:
            scores = model.score_items(given)
            if shown is not None:
                scores[:, ~_fit(shown, scores.shape[1]).to(scores.device)] = -torch.inf
            scores[:, ~candidates.to(scores.device)] = -torch.inf
            scores[~model.knows(given)] = -torch.inf
            return rank_items(scores.float(), n, seen)

        return rank_scores, max(1, SCORES_AT_ONCE // len(popularity))
    vectors = model.item_vectors()
    assert index is not None, "the model has vectors"
    rank = rank_products if clusters is None else clusters.rank

    def rank_vectors(given: Inputs, seen: Sequence[IntArray], shown: Mask | None) -> RankedItems:
        users = model.user_vectors(given, vectors).float()
        open_ = None if shown is None else _fit(shown, len(index.row_of))
        # A vector of zeros scores all items alike: nothing costs more, and nobody wants it.
        knows = model.knows(given)
        if knows.all():
            return rank(users, index, n, seen, open_)
        known = torch.nonzero(knows)[:, 0]
        ranked = RankedItems(
            torch.full((len(users), n), PADDING_ITEM, device=users.device),
            torch.full((len(users), n), -torch.inf, device=users.device),
        )
        own = take(seen, known.cpu().numpy())
        ranked.items[known], ranked.scores[known] = rank(users[known], index, n, own, open_)
        return ranked

    return rank_vectors, _count_at_once(model)


def _count_at_once(model: Recommender) -> int:
    """Users whose vectors are made together."""
    return max(1, min(_USERS_AT_ONCE, EVENTS_AT_ONCE // model.config.max_length))


def make_queries(
    model: DotProductRecommender,
    histories: Histories,
    seen: Sequence[IntArray],
    rules: ListRules | None = None,
    groups: IntArray | None = None,
) -> list[Queries]:
    """What ``rank_products`` is asked for users whom the model knows; arguments as above."""
    queries = []
    with torch.inference_mode():
        vectors = model.item_vectors()
        for at, group in _batches(len(histories), groups, _count_at_once(model)):
            given, own, shown = _inputs(model, histories.part(at)), take(seen, at), None
            if rules is not None and len(rules.user_codes):
                shown = _fit(rules.shown_to(group), len(vectors))
            users, known = model.user_vectors(given, vectors).float(), model.knows(given)
            rows = torch.nonzero(known)[:, 0].cpu()
            queries.append(Queries(users[rows], take(own, rows.numpy()), shown))
    return queries


def _fit(shown: Mask, columns: int) -> Tensor:
    """A mask of today's items as one of the model's, bool [columns]."""
    found = torch.zeros(columns, dtype=torch.bool)
    found[: len(shown)] = torch.from_numpy(shown[:columns])
    return found


def _rank(
    model: Recommender,
    stage: _Stage,
    histories: Histories,
    seen: Sequence[IntArray],
    popularity: npt.NDArray[np.float32],
    n: int,
    ranker: ClickRanker | None,
    shown: Mask | None,
) -> Lists:
    items, values = stage(_inputs(model, histories), seen, shown)
    if ranker is not None:
        items, values = rerank(ranker, _inputs(ranker, histories), items, values)
    items, values = items[:, :n].contiguous().cpu(), values[:, :n].contiguous().cpu()
    return fill(items.numpy(), values.numpy(), seen, popularity, n)


def _inputs(model: Recommender, histories: Histories) -> dict[str, Tensor]:
    """What a model is given, on its device."""
    device = next(model.parameters()).device
    inputs = pad_histories(histories, model.config.num_items, model.config.max_length)
    return {name: torch.from_numpy(part).to(device) for name, part in inputs.items()}
