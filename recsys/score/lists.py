"""Lists as scoring makes them: the model's items, then popular ones, in the order of rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recsys.ranking.item_index import ItemIndex
from recsys.ranking.rules import Candidates, ListRules, choose, follow_caps, lay_out, weigh
from recsys.ranking.top_n import IntArray, flatten, rank_items

_VALUES_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Lists:
    """Ranked lists; a list is shorter only where the catalogue has too few unseen items.

    Attributes:
        items: item_idx, int64 [users, n], best first; 0 = no item.
        scores: float32 [users, n]; for fallback items the popularity.
        from_model: bool [users, n]; False marks an item of the popularity fallback.
        pinned: bool [users, n]; marks an item that a rule has put there. None: no rule does.
    """

    items: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    from_model: npt.NDArray[np.bool_]
    pinned: npt.NDArray[np.bool_] | None = None

    def part(self, at: slice | IntArray) -> Lists:
        """Some of the users, as they lie or in another order."""
        pinned = None if self.pinned is None else self.pinned[at]
        return Lists(self.items[at], self.scores[at], self.from_model[at], pinned)


def join(parts: Sequence[Lists], n: int) -> Lists:
    """Lists of all users, [users, n]."""
    if not parts:
        empty = np.zeros((0, n))
        return Lists(empty.astype(np.int64), empty.astype(np.float32), empty.astype(bool))
    pinned = [part.pinned for part in parts if part.pinned is not None]
    return Lists(
        np.concatenate([part.items for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.from_model for part in parts]),
        np.concatenate(pinned) if pinned else None,
    )


def fill(
    items: npt.NDArray[np.int64],
    scores: npt.NDArray[np.float32],
    seen: Sequence[IntArray],
    popularity: npt.NDArray[np.float32],
    n: int,
) -> Lists:
    """The model's lists, [users, n], with popular items where they end; both are overwritten."""
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


def obey(
    rules: ListRules,
    group: int,
    lists: Lists,
    seen: Sequence[IntArray],
    popularity: npt.NDArray[np.float32],
    n: int,
    index: ItemIndex | None = None,
    biases: int = 0,
) -> Lists:
    """The lists of users of one group, in the order that rules give their candidates.

    Where caps leave too few candidates the most popular items that have room follow; where nothing
    has room any more, the best that is left: a list is full wherever the catalogue allows it.

    Args:
        group: whose users these are.
        lists: the users' candidates, [users, n or more].
        seen: item_idx that must not be recommended to each user.
        popularity: float32 [items + 1], of what the group may be shown; others have 0.
        n: length of the lists.
        index: of the model's items, for ``rules.needs_vectors``.
        biases: first columns of its vectors that do not say what an item is like.
    """
    width = lists.items.shape[1] * (index.dims if index and rules.needs_vectors else 1)
    size = max(1, _VALUES_AT_ONCE // width)
    parts = []
    for at in range(0, len(lists.items), size):
        some = slice(at, at + size)
        pinned = _find_pinned(rules, group, seen[some])
        vectors = None
        if rules.needs_vectors:
            assert index is not None, "the model has vectors"
            vectors = partial(_unit_vectors, index, biases)
        parts.append(_obey(rules, lists.part(some), seen[some], pinned, popularity, n, vectors))
    return join(parts, n)


def _find_pinned(rules: ListRules, group: int, seen: Sequence[IntArray]) -> npt.NDArray[np.bool_]:
    """Which pins a user's list has, bool [users, pins]: those of an item that it may have."""
    shown = rules.group_pins[group] & rules.shown_to(group)[rules.pin_items]
    found = np.tile(shown, (len(seen), 1))
    offsets, values = flatten(seen)
    for pin, item in enumerate(rules.pin_items):
        users = np.searchsorted(offsets, np.flatnonzero(values == item), side="right") - 1
        found[users, pin] = False
    return found


def _obey(
    rules: ListRules,
    lists: Lists,
    seen: Sequence[IntArray],
    pinned: npt.NDArray[np.bool_],
    popularity: npt.NDArray[np.float32],
    n: int,
    vectors: Callable[[IntArray], npt.NDArray[np.float64]] | None,
) -> Lists:
    given, value = _add_pins(rules, lists, pinned, popularity)
    if vectors is not None:
        given = replace(given, vectors=vectors(given.items))
    columns = choose(rules, given, value, pinned, n)
    users = np.arange(len(columns))[:, None]
    # A column that is not there is the last one, and is overwritten.
    items = np.where(columns >= 0, given.items[users, columns], 0)
    scores = np.where(items > 0, given.scores[users, columns], np.float32(-np.inf))
    from_model = (items > 0) & given.from_model[users, columns]
    # Elsewhere there are as many candidates as places.
    if len(rules.caps) or (rules.pin_ranks > n).any():
        _fill_up(rules, given, Lists(items, scores, from_model), seen, pinned, popularity)
    pin, other = lay_out(pinned, rules.pin_ranks, n)
    is_pin = pin >= 0

    found = Lists(items, scores, from_model, is_pin)
    if pinned.shape[1]:
        found = Lists(
            np.where(is_pin, given.items[users, pin], items[users, other]),
            np.where(is_pin, given.scores[users, pin], scores[users, other]),
            ~is_pin & from_model[users, other],
            is_pin,
        )
    # A pin behind the end of a short list moves up.
    order = np.argsort(found.items == 0, axis=1, kind="stable")
    return Lists(*(np.take_along_axis(part, order, 1) for part in vars(found).values()))


def _add_pins(
    rules: ListRules,
    lists: Lists,
    pinned: npt.NDArray[np.bool_],
    popularity: npt.NDArray[np.float32],
) -> tuple[Candidates, npt.NDArray[np.float64]]:
    """The pins before the candidates, and what these are worth; a pinned item is there once."""
    value = weigh(rules, Candidates(lists.items, lists.scores, lists.from_model))
    items = lists.items.copy()
    pins = np.where(pinned, rules.pin_items, 0)
    scores = popularity[pins]
    for pin in range(pins.shape[1]):
        user, column = np.nonzero((items == pins[:, pin : pin + 1]) & (items > 0))
        scores[user, pin] = lists.scores[user, column]
        items[user, column], value[user, column] = 0, -np.inf
    given = Candidates(
        np.concatenate([pins, items], axis=1),
        np.concatenate([scores, lists.scores], axis=1),
        np.concatenate([np.zeros(pins.shape, dtype=bool), lists.from_model], axis=1),
    )
    return given, np.concatenate([np.full(pins.shape, -np.inf), value], axis=1)


def _unit_vectors(index: ItemIndex, biases: int, items: IntArray) -> npt.NDArray[np.float64]:
    """Of each item the model's vector less its biases, with length 1, float64 [..., dims - biases].

    0 where it has none.
    """
    wanted = torch.from_numpy(items)
    known = (wanted > 0) & (wanted < len(index.row_of))
    rows = index.row_of.cpu()[wanted.where(known, torch.zeros_like(wanted))]
    known &= rows >= 0
    found = torch.zeros((*items.shape, index.dims - biases), dtype=torch.float64)
    vectors: Tensor = index.vectors[rows[known].to(index.vectors.device), biases:].cpu().double()
    length = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    found[known] = vectors / torch.where(length > 0, length, torch.ones_like(length))
    return found.numpy()


def _fill_up(
    rules: ListRules,
    given: Candidates,
    lists: Lists,
    seen: Sequence[IntArray],
    pinned: npt.NDArray[np.bool_],
    popularity: npt.NDArray[np.float32],
) -> None:
    """Lengthen lists (of what is beside the pins) whose candidates had no room any more."""
    items = lists.items
    n = items.shape[1]
    wanted, have = n - pinned[:, rules.pin_ranks <= n].sum(axis=1), (items > 0).sum(axis=1)
    short = np.flatnonzero(have < wanted)
    if not len(short):
        return
    order = np.argsort(-popularity, kind="stable")
    order = order[popularity[order] > 0]
    for user in short:
        pins = rules.pin_items[pinned[user]]
        held = np.concatenate([pins, items[user, : have[user]]])
        taken = np.concatenate([held, np.asarray(seen[user], dtype=np.int64)])
        count = int(wanted[user] - have[user])
        more = follow_caps(rules, order, held, taken, count)
        if len(more) < count:
            own = given.items[user, len(pinned[user]) :]
            rest = np.concatenate([own[own > 0], order])
            rest = rest[~np.isin(rest, np.concatenate([taken, more]))]
            _, first = np.unique(rest, return_index=True)
            more = np.concatenate([more, rest[np.sort(first)][: count - len(more)]])
        places = slice(have[user], have[user] + len(more))
        items[user, places], lists.scores[user, places] = more, popularity[more]
        # Candidates that come after all keep what is known of them.
        place, column = np.nonzero(more[:, None] == given.items[user, len(pinned[user]) :])
        place, column = place + have[user], column + len(pinned[user])
        lists.scores[user, place] = given.scores[user, column]
        lists.from_model[user, place] = given.from_model[user, column]
