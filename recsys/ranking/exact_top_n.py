"""Exact top-n of dot products, without making most of them exactly.

The lists are those of a full sort of the scores that ``exact_scores`` defines, higher score first,
of equal ones the lower item_idx, to the bit: they depend neither on batches and blocks nor on the
processor. What follows only decides which scores are worth making.

**Rough scores.** Where the processor multiplies int8 fast, users and items are rounded to int8
codes: an item's vector v less the centre c of all items and rotated, w = (v - c) R, is close to
``scale`` times its code; a user's u R likewise. Integer products are exact, so for a user and an
item, with x' for what the code of x stands for,

    u.v = u.c + (uR).w    and    |(uR).w - (uR)'.w'| <= |uR - (uR)'| |w| + |(uR)'| |w - w'|

by the triangle inequality and Cauchy and Schwarz. All norms on the right are computed, in float64;
of items the largest of a block is taken. Its own rounding and that of R, and the last rounding of a
score to float32 (2^-24 of a score that is at most |u| |v|) are less than 2^-23 |u| (|w| + |c|),
which is added. Elsewhere the rough score is a float32 product, in any order: off by at most
dims 2^-24 (1 + 2^-8) |u| |v| (Higham 2002, section 3.1, for dims up to 2^16).

**Floors.** Each user has a guessed floor, from the rough scores of a sample of items. An item is
excluded where its rough score plus its bound lies below; this is a comparison of integers with a
number per user and block. Candidates are then sorted out by their bounds, and those that remain are
scored exactly. If the n-th best has at least the floor's score, nobody who was excluded belongs
above it; otherwise the user is ranked again from a float32 product with all items.

Source: rough scores and exact ones for what they can't exclude are the filter and refine steps of
nearest-neighbour search; the rotation is that of Gao and Long 2024, "RaBitQ", section 3.1.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recsys.ranking.exact_scores import score_pairs
from recsys.ranking.item_index import BLOCK, ItemIndex
from recsys.ranking.rough_scores import BLOCKS_AT_ONCE, TINY, Hidden, Pairs, float32_error, scan
from recsys.ranking.top_n import (
    NAN_MESSAGE,
    PADDING_ITEM,
    IntArray,
    Ragged,
    RankedItems,
    flatten,
)

_USERS_AT_ONCE = 256
_DENSE_SCORES_AT_ONCE = 4_000_000
_MOST_PAIRS = 2_000_000
_SMALL = 4 * BLOCK
_LARGEST_SCORE = 1e38
MOST_BYTES = 100 * (_MOST_PAIRS + _USERS_AT_ONCE * BLOCK * BLOCKS_AT_ONCE)
"""Memory of ``rank_products`` where all scores are so near to each other that all are candidates:
the candidates of one span of blocks on top of those that are kept, with their copies."""
_LOWER_HALF, _TURN, _NO_KEY = 0xFFFFFFFF, 0x7FFFFFFF, -(2**63)


def rank_products(
    users: Tensor,
    index: ItemIndex,
    n: int,
    seen: Ragged | Sequence[IntArray] | None = None,
    shown: Tensor | None = None,
) -> RankedItems:
    """Rank all items of an index for each user: exact, without seen items, ties by lower item_idx.

    Args:
        users: vectors, float32 [users, dims], on the device of the index.
        index: of the items.
        n: length of the lists, at least 1.
        seen: item_idx to leave out for each user, as ``rank_items`` takes them.
        shown: items of the index that any of these users may be shown, bool [num_items + 1]; None:
            all.

    Raises:
        ValueError: n is not positive, shapes disagree, or scores are NaN or above 1e38.
    """
    if n < 1:
        raise ValueError(f"n={n} must be at least 1")
    if users.ndim != 2 or users.shape[1] != index.dims:
        raise ValueError(f"users must be [users, {index.dims}], not {tuple(users.shape)}")
    seen = flatten([np.zeros(0, np.int64)] * len(users)) if seen is None else seen
    offsets, values = seen if isinstance(seen, tuple) else flatten(seen)
    if len(offsets) != len(users) + 1:
        raise ValueError(f"seen has {len(offsets) - 1} rows, there are {len(users)} users")
    users = users.float()
    largest = torch.linalg.vector_norm(users.double(), dim=1).max() if len(users) else 0.0
    # A comparison with NaN is false.
    if not float(largest * index.longest) < _LARGEST_SCORE:
        raise ValueError(NAN_MESSAGE)
    closed = None if shown is None else ~shown.to(users.device)[index.items]
    parts = []
    for at in range(0, len(users), _USERS_AT_ONCE):
        part = users[at : at + _USERS_AT_ONCE]
        bounds = offsets[at : at + len(part) + 1]
        hidden = _find_rows(bounds - bounds[0], values[bounds[0] : bounds[-1]], index)
        parts.append(_rank(part, index, n, Hidden(*hidden, closed)))
    empty = RankedItems(
        torch.zeros((0, n), dtype=torch.int64, device=users.device), users.new_zeros((0, n))
    )
    return RankedItems(*(torch.cat(column) for column in zip(empty, *parts, strict=True)))


def _find_rows(offsets: IntArray, values: IntArray, index: ItemIndex) -> tuple[Tensor, Tensor]:
    """Pairs that no list may have: user and row, int64, by ascending row."""
    values = np.asarray(values, dtype=np.int64)
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    known = (values > 0) & (values < len(index.row_of))
    row = index.row_of[torch.from_numpy(values[known]).to(index.items.device)]
    row, order = torch.sort(row)
    found = torch.from_numpy(user[known]).to(row.device)[order]
    first = int(torch.searchsorted(row, 0))
    return found[first:], row[first:]


def _rank(users: Tensor, index: ItemIndex, n: int, hidden: Hidden) -> RankedItems:
    """Lists of a batch of users."""
    if not len(index):
        return RankedItems(
            torch.full((len(users), n), PADDING_ITEM, device=users.device),
            torch.full((len(users), n), -torch.inf, device=users.device),
        )
    floor = _guess_floor(users, index, n, hidden)
    if floor is None:
        return _rank_all(users, index, n, hidden)
    found = _take_best(users, index, n, _scan(users, index, n, hidden, floor))
    again = torch.nonzero(found.scores[:, -1] < floor)[:, 0]
    if len(again):
        better = _rank_all(users[again], index, n, _only(hidden, again, len(users)))
        found.items[again], found.scores[again] = better
    return found


def _place(expected: float) -> int:
    """Place in the sample of the item whose score becomes the floor.

    Of the n best items so many are expected in the sample; with this margin one user in a hundred
    or so has too high a floor.
    """
    return math.ceil(expected + 2.5 * math.sqrt(expected) + 1.5)


def _rank_all(users: Tensor, index: ItemIndex, n: int, hidden: Hidden) -> RankedItems:
    size = max(1, _DENSE_SCORES_AT_ONCE // max(1, len(index)))
    parts = []
    for some in torch.split(torch.arange(len(users), device=users.device), size):
        pairs = _compare_all(users[some], index, n, _only(hidden, some, len(users)))
        parts.append(_take_best(users[some], index, n, pairs))
    return RankedItems(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _only(hidden: Hidden, some: Tensor, users: int) -> Hidden:
    """Pairs of some users, who are renumbered."""
    place = torch.full((users,), -1, dtype=torch.int64, device=some.device)
    place[some] = torch.arange(len(some), device=some.device)
    kept = place[hidden.user] >= 0
    return Hidden(place[hidden.user][kept], hidden.row[kept], hidden.closed)


def _guess_floor(users: Tensor, index: ItemIndex, n: int, hidden: Hidden) -> Tensor | None:
    """A score that slightly more than n items should have, float64 [users]; None: rank all."""
    if users.device.type != "cpu" or len(index) <= _SMALL:
        return None
    sample = index.sample()
    place = _place(n * len(sample) / len(index))
    if place > len(sample) // 8:
        return None
    scores = users @ sample.T
    inside = hidden.row % index.stride == 0
    scores[hidden.user[inside], hidden.row[inside] // index.stride] = -torch.inf
    if hidden.closed is not None:
        scores[:, hidden.closed[:: index.stride]] = -torch.inf
    # Among the larger ones of four that are far from each other: little is lost, and much faster.
    quarter = scores.shape[1] // 4
    pairs = torch.maximum(scores[:, : 2 * quarter], scores[:, 2 * quarter : 4 * quarter])
    best = torch.maximum(pairs[:, :quarter], pairs[:, quarter:])
    return torch.topk(best, place, dim=1, sorted=False).values.amin(dim=1).double()


def _scan(users: Tensor, index: ItemIndex, n: int, hidden: Hidden, floor: Tensor) -> Pairs:
    """All candidates of a batch, by ascending user."""
    floor, kept, count = floor.clone(), list[Pairs](), 0
    for pairs in scan(users, index, hidden, floor):
        kept.append(pairs)
        count += len(pairs.user)
        if count > _MOST_PAIRS:
            best = _take_best(users, index, n, _by_user(kept))
            kept = [_pairs_of(best, index)]
            floor.copy_(torch.maximum(floor, best.scores[:, -1].double()))
            count = len(kept[0].user)
    return _by_user(kept)


def _by_user(parts: list[Pairs]) -> Pairs:
    if not parts:
        nothing = torch.zeros(0, dtype=torch.int64)
        return Pairs(nothing, nothing, nothing.double(), nothing.double())
    pairs = Pairs(*(torch.cat(column) for column in zip(*parts, strict=True)))
    # numpy sorts small integers by counting, which is many times faster.
    order = torch.from_numpy(np.argsort(pairs.user.numpy().astype(np.int16), kind="stable"))
    return Pairs(*(column[order] for column in pairs))


def _pairs_of(best: RankedItems, index: ItemIndex) -> Pairs:
    user, place = torch.nonzero(best.items > PADDING_ITEM, as_tuple=True)
    scores = best.scores[user, place].double()
    return Pairs(user, index.row_of[best.items[user, place]], scores, scores)


def _compare_all(users: Tensor, index: ItemIndex, n: int, hidden: Hidden) -> Pairs:
    """Candidates by a float32 product with every item, on any device."""
    rough = users @ index.vectors.T
    rough[hidden.user, hidden.row] = -torch.inf
    if hidden.closed is not None:
        rough[:, hidden.closed] = -torch.inf
    size = torch.linalg.vector_norm(users.double(), dim=1)
    error = float32_error(index.dims) * size * index.longest + TINY
    last = torch.topk(rough, min(n, len(index)), dim=1, sorted=False).values.amin(dim=1)
    least = (last.double() - 2.0 * error)[:, None]
    user, row = torch.nonzero((rough.double() >= least) & (rough > -torch.inf), as_tuple=True)
    middle = rough[user, row].double()
    return Pairs(user, row, middle - error[user], middle + error[user])


def _take_best(users: Tensor, index: ItemIndex, n: int, pairs: Pairs) -> RankedItems:
    """Lists from candidates, which are by ascending user: the one place that orders items."""
    pairs, scores = _score_what_matters(users, index, n, pairs)
    # One number to sort by: the upper half are the bits of the score, turned so that they sort as
    # it does, the lower half is larger for a lower item_idx.
    bits = scores.view(torch.int32).long()
    bits = torch.where(bits >= 0, bits, bits ^ _TURN)
    keys = (bits << 32) + (_LOWER_HALF - index.items[pairs.row])
    table = _table(pairs.user, keys, len(users), _NO_KEY)
    best = _sort_descending(table)[:, :n]
    best = functional.pad(best, (0, n - best.shape[1]), value=_NO_KEY)
    real, bits = best > _NO_KEY, best >> 32
    bits = torch.where(bits >= 0, bits, bits ^ _TURN).to(torch.int32)
    items = (_LOWER_HALF - (best & _LOWER_HALF)).masked_fill(~real, PADDING_ITEM)
    return RankedItems(items, bits.view(torch.float32).masked_fill(~real, -torch.inf))


def _score_what_matters(
    users: Tensor, index: ItemIndex, n: int, pairs: Pairs
) -> tuple[Pairs, Tensor]:
    """The candidates that n others of their user may not beat, and their scores, float32.

    First come the n that are best by their lower bounds (or all, of fewer): the list's last score
    is not below the worst of theirs, and most of the others can't reach it.
    """
    table = _table(pairs.user, pairs.low, len(users), -torch.inf)
    last = torch.full((len(users),), -torch.inf, dtype=torch.float64, device=users.device)
    if table.shape[1] > n:
        last = _sort_descending(table)[:, n - 1]
    first = pairs.low >= last[pairs.user]
    scores = torch.empty(len(first), dtype=torch.float32, device=users.device)
    scores[first] = found = _score(users, index, pairs, first)
    worst = torch.full_like(last, torch.inf)
    worst.scatter_reduce_(0, pairs.user[first], found.double(), "amin")
    rest = ~first & (pairs.high >= worst[pairs.user])
    scores[rest] = _score(users, index, pairs, rest)
    kept = first | rest
    return Pairs(*(column[kept] for column in pairs)), scores[kept]


def _score(users: Tensor, index: ItemIndex, pairs: Pairs, chosen: Tensor) -> Tensor:
    user, row = pairs.user[chosen], pairs.row[chosen]
    return score_pairs(users, index.vectors, user, row, index.longest)


def _sort_descending(table: Tensor) -> Tensor:
    """Rows sorted; on the CPU by numpy, whose vectorised sort of a whole row beats ``topk``."""
    if table.device.type == "cpu":
        return torch.from_numpy(np.sort(table.numpy(), axis=1)).flip(1)
    return torch.sort(table, dim=1, descending=True).values


def _table(user: Tensor, values: Tensor, users: int, fill: float) -> Tensor:
    """A row a user: values [pairs] by ascending user as [users, most of a user], filled up."""
    count = torch.bincount(user, minlength=users)
    place = torch.arange(len(user), device=user.device) - (count.cumsum(0) - count)[user]
    width = int(count.max()) if users else 0
    table = torch.full((users, width), fill, dtype=values.dtype, device=user.device)
    table[user, place] = values
    return table
