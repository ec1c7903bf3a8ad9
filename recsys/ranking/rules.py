"""Rules as arrays: who may be shown which item, and what orders a list beside the model.

A list is made in this order: filter, score, freshness, diversity, caps, pins. Of a user's
candidates (the model's best, then the popular ones) the next one of the list is, again and again,
the one that has the highest

    (1 - d) * (relevance + w * 2^(-age / half-life)) - d * max similarity to what is in the list

among those whose categories have room; ties by the better place among the candidates. Relevance is
the model's score, from 0 for the lowest of the user's candidates to 1 for the highest; of popular
items it is the same of the log of their popularity, less 1 + 2d / (1 - d), so that they stand below
the model's whatever they are like: it is their freshness alone that may lift them.

Source: Carbonell and Goldstein 1998, "The Use of MMR, Diversity-Based Reranking for Reordering
Documents and Producing Summaries", section 2, with lambda = 1 - d.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recsys.ranking.top_n import PADDING_ITEM

_FILE = "{}.npy"
_MAPPED_FROM = 65_536  # bytes
IntItems = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ListRules:
    """What a night's lists obey. Users of one group (of ``groups``) may be shown the same items.

    Attributes:
        allowed: items that pass the filters that are the same for all users, bool [items + 1].
        user_codes: for each filter that depends on the user the code of each item's value, int32
            [filters, items + 1].
        user_tables: whether an item with a code may be shown to a user with a value, bool
            [filters, values, codes], filled up with False.
        groups: each group's row of the filters' tables, int64 [groups, filters].
        candidates: items of a user that are looked at, int64 [].
        diversity: ``d`` above, float64 []; 0: off.
        alike: code of each item's value by which items are alike or not, int32 [items + 1]; 0 is
            like none. Empty: the model's vectors say how alike items are.
        freshness: ``w * 2^(-age / half-life)`` of each item, float64 [items + 1]; empty: off.
        categories: code of each item's category by column, int32 [columns, items + 1]; 0 has none.
        caps: items of one category in a list at most, int64 [columns].
        pin_items, pin_ranks: int64 [pins]; a rank is held once in a group.
        group_pins: which groups have a pin, bool [groups, pins].
    """

    allowed: Mask
    user_codes: npt.NDArray[np.int32]
    user_tables: Mask
    groups: IntItems
    candidates: IntItems
    diversity: Floats
    alike: npt.NDArray[np.int32]
    freshness: Floats
    categories: npt.NDArray[np.int32]
    caps: IntItems
    pin_items: IntItems
    pin_ranks: IntItems
    group_pins: Mask

    @property
    def reorders(self) -> bool:
        """Whether lists are more than the first of the items that may be shown."""
        chosen = len(self.freshness) or len(self.caps) or len(self.pin_items)
        return bool(chosen or self.diversity > 0)

    @property
    def needs_vectors(self) -> bool:
        """Whether the model's item vectors say how alike items are."""
        return bool(self.diversity > 0 and not len(self.alike))

    def width(self, n: int) -> int:
        """How many items of a user are looked at for a list of n."""
        return max(n, int(self.candidates)) if self.reorders else n

    @property
    def bytes_of_items(self) -> int:
        """Memory of the arrays."""
        return sum(int(getattr(self, field.name).nbytes) for field in fields(self))

    def shown_to(self, group: int) -> Mask:
        """Items that users of a group may be shown, bool [items + 1]."""
        found = self.allowed.copy()
        for codes, table, row in zip(
            self.user_codes, self.user_tables, self.groups[group], strict=True
        ):
            found &= table[row][codes]
        return found

    def save(self, folder: Path) -> None:
        """Write the arrays into a folder that is there."""
        for field in fields(self):
            np.save(folder / _FILE.format(field.name), getattr(self, field.name))


def load_rules(folder: Path) -> ListRules:
    """What ``save`` wrote; large arrays are mapped, so that processes of a machine share them."""
    paths = {field.name: folder / _FILE.format(field.name) for field in fields(ListRules)}
    large = {name: path.stat().st_size > _MAPPED_FROM for name, path in paths.items()}
    return ListRules(
        **{
            name: np.load(path, mmap_mode="c" if large[name] else None)
            for name, path in paths.items()
        }
    )


@dataclass(frozen=True)
class Candidates:
    """Items of users, best first.

    Attributes:
        items: item_idx, int64 [users, width]; 0 is no item.
        scores: float32 [users, width]: the model's, or the popularity.
        from_model: bool [users, width].
        vectors: float64 [users, width, dims], of length 1 or 0; None where none are needed.
    """

    items: IntItems
    scores: npt.NDArray[np.float32]
    from_model: Mask
    vectors: Floats | None = None


def weigh(rules: ListRules, given: Candidates) -> Floats:
    """Relevance and freshness of candidates, float64 [users, width]; -inf where there is none.

    Without freshness and diversity nothing is weighed against it: it is the place among them.
    """
    real = given.items > PADDING_ITEM
    if not len(rules.freshness) and not rules.diversity > 0:
        places = -np.arange(given.items.shape[1], dtype=np.float64)
        return np.where(real, places, -np.inf)
    ours, popular = real & given.from_model, real & ~given.from_model
    scores = given.scores.astype(np.float64)
    found = np.full(scores.shape, -np.inf)
    found[ours] = _to_unit(scores, ours)[ours]
    logs = np.log(np.where(popular & (scores > 0), scores, np.finfo(np.float32).tiny))
    weight = float(rules.diversity)
    found[popular] = _to_unit(logs, popular)[popular] - 1.0 - 2.0 * weight / (1.0 - weight)
    if len(rules.freshness):
        found[real] += rules.freshness[given.items[real]]
    return found


def _to_unit(values: Floats, chosen: Mask) -> Floats:
    """From 0 for the lowest of a user's chosen values to 1 for the highest; all alike are 1."""
    lowest = np.where(chosen, values, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    highest = np.where(chosen, values, -np.inf).max(axis=1, keepdims=True, initial=-np.inf)
    spread = np.where(highest > lowest, highest - lowest, 1.0)
    return np.where(highest > lowest, (values - np.where(chosen, lowest, 0.0)) / spread, 1.0)


def choose(rules: ListRules, given: Candidates, value: Floats, pinned: Mask, n: int) -> IntItems:
    """Which candidates follow each other in lists beside the pins.

    Args:
        given: the pins first, a column each, then what may follow them.
        value: what ``weigh`` says of the columns, -inf of the pins; overwritten.
        pinned: the user's pins, bool [users, pins]; those behind the first n count, too.
        n: length of the lists with the pins.

    Returns:
        Columns of ``given``, int64 [users, n]; -1 where no candidate has room any more.
    """
    users, pins = pinned.shape
    state = _State(rules, given)
    for pin in range(pins):
        state.add(np.where(pinned[:, pin], pin, -1))
    left = n - pinned[:, rules.pin_ranks <= n].sum(axis=1)
    found = np.full((users, n), -1, dtype=np.int64)
    for place in range(n):
        mixed = state.mix(value)
        best = mixed.argmax(axis=1)
        open_ = (np.take_along_axis(mixed, best[:, None], 1)[:, 0] > -np.inf) & (place < left)
        found[:, place] = np.where(open_, best, -1)
        state.add(found[:, place])
        value[np.flatnonzero(open_), best[open_]] = -np.inf
    return found


class _State:
    """What is in the lists so far, as far as it matters to what may follow."""

    def __init__(self, rules: ListRules, given: Candidates) -> None:
        self._rules, self._given = rules, given
        self._categories = rules.categories[:, given.items]
        self._count = np.zeros(self._categories.shape, dtype=np.int64)
        self._alike = rules.alike[given.items] if len(rules.alike) else None
        self._nearest = np.full(given.items.shape, -np.inf)

    def add(self, columns: IntItems) -> None:
        """Put a column of each user into its list; -1: none."""
        users = np.flatnonzero(columns >= 0)
        at = columns[users]
        for codes, count in zip(self._categories, self._count, strict=True):
            own = codes[users, at][:, None]
            count[users] += (codes[users] == own) & (own > 0)
        if self._rules.diversity > 0 and len(users):
            self._nearest[users] = np.maximum(self._nearest[users], self._compare(users, at))

    def mix(self, value: Floats) -> Floats:
        """What each column is worth now; -inf where it has no room."""
        weight = float(self._rules.diversity)
        mixed = value
        if weight > 0:
            # Nothing is in the list yet: nothing is like it.
            nearest = np.where(self._nearest > -np.inf, self._nearest, 0.0)
            mixed = (1.0 - weight) * value - weight * nearest
        for count, cap in zip(self._count, self._rules.caps, strict=True):
            mixed = np.where(count >= cap, -np.inf, mixed)
        return mixed

    def _compare(self, users: IntItems, at: IntItems) -> Floats:
        if self._alike is not None:
            own = self._alike[users, at][:, None]
            return ((self._alike[users] == own) & (own > 0)).astype(np.float64)
        vectors = self._given.vectors
        assert vectors is not None, "the model has vectors"
        # einsum adds up a row at a time, so a product does not depend on the others in the batch.
        found: Floats = np.einsum("ucd,ud->uc", vectors[users], vectors[users, at])
        return found


def follow_caps(
    rules: ListRules, order: IntItems, held: IntItems, taken: IntItems, count: int
) -> IntItems:
    """The first items of an order that a list has room for, at most ``count``, int64.

    Args:
        order: item_idx, best first.
        held: what is in the list.
        taken: what must not come (again), ``held`` among it.
    """
    rest = order[~np.isin(order, taken)]
    found: list[int] = []
    while len(found) < count and len(rest):
        inside = np.concatenate([held, np.array(found, dtype=np.int64)])
        room = np.ones(len(rest), dtype=bool)
        for codes, cap in zip(rules.categories, rules.caps, strict=True):
            used, times = np.unique(codes[inside], return_counts=True)
            room &= ~np.isin(codes[rest], used[(times >= cap) & (used > 0)])
        rest = rest[room]
        if len(rest):
            found.append(int(rest[0]))
            rest = rest[1:]
    return np.array(found, dtype=np.int64)


def lay_out(pinned: Mask, ranks: IntItems, n: int) -> tuple[IntItems, IntItems]:
    """Where the entries of lists come from.

    Args:
        pinned: the user's pins, bool [users, pins].
        ranks: of the pins, int64 [pins].

    Returns:
        Of each place the pin on it, and of the others the number of the one of the items beside the
        pins that stands on it, both int64 [users, n], -1 elsewhere.
    """
    pin = np.full((len(pinned), n), -1, dtype=np.int64)
    for column, rank in enumerate(ranks):
        if rank <= n:
            pin[pinned[:, column], rank - 1] = column
    free = pin < 0
    return pin, np.where(free, np.cumsum(free, axis=1) - 1, -1)
