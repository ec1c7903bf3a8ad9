"""Exact top-n of dot products, without making most of them exactly.

The lists are those of a full sort of the scores that ``exact_scores`` defines, higher score first,
of equal ones the lower item_idx, to the bit: they depend neither on batches and blocks nor on the
processor. What follows only decides which scores are worth making.

**Rough scores.** On a CPU users and items are rounded to codes of one or two bytes: an item's
vector v less the centre c of all items and rotated, w = (v - c) R, is close to ``scale`` times its
code; a user's u R likewise. Integer products are exact, so for a user and an item, with x' for what
the code of x stands for,

    u.v = u.c + (uR).w    and    |(uR).w - (uR)'.w'| <= |uR - (uR)'| |w| + |(uR)'| |w - w'|

by the triangle inequality and Cauchy and Schwarz. All norms on the right are computed, in float64;
of items the largest of a block is taken. Its own rounding and that of R, and the last rounding of a
score to float32 (2^-24 of a score that is at most |u| |v|) are less than 2^-23 |u| (|w| + |c|),
which is added.

**Floors.** Each user has a guessed floor, from rough scores of a sample of items (``floors``). An
item is excluded where its rough score plus its bound lies below; this is a comparison of integers
with a number per user and block, made while the products are in registers (``tiles``). Candidates
are then sorted out by their bounds, and those that remain are scored exactly (``candidates``,
``exact_keys``; compiled). If the n-th best has at least the floor's score, nobody who was excluded
belongs above it; otherwise the user is ranked again with a lower floor, then without one. On a GPU
candidates come from a float32 product with all items (``dense_top_n``).

Source: rough scores and exact ones for what they can't exclude are the filter and refine steps of
nearest-neighbour search; the rotation is that of Gao and Long 2024, "RaBitQ", section 3.1.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recsys.ranking.candidates import BINS, take_best
from recsys.ranking.dense_top_n import rank_all
from recsys.ranking.exact_scores import doubt_sums
from recsys.ranking.floors import guess_floors
from recsys.ranking.item_index import ItemIndex
from recsys.ranking.machine_code import compiled
from recsys.ranking.rough_scores import Hidden, Rough, describe_blocks, make_rough, scan
from recsys.ranking.scan_state import LOST, Buffer, Rows, Scratch, Users
from recsys.ranking.top_n import (
    NAN_MESSAGE,
    PADDING_ITEM,
    IntArray,
    Ragged,
    RankedItems,
    flatten,
)

_USERS_AT_ONCE = 1024
"""With 256 what is done once a batch takes a twentieth of the time (64 dims, 50,000 items)."""
_LEAST_CAPACITY = 512
_LARGEST_SCORE = 1e38


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
    """Pairs that no list may have: user and row, int64."""
    values = np.asarray(values, dtype=np.int64)
    row_of = index.row_of
    if row_of.device.type == "cpu":
        user, row = _find_pairs(np.asarray(offsets, np.int64), values, row_of.numpy())
        return torch.from_numpy(user), torch.from_numpy(row)
    users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    known = (values > 0) & (values < len(row_of))
    rows = row_of[torch.from_numpy(values[known]).to(row_of.device)]
    ranked = rows >= 0
    return torch.from_numpy(users[known]).to(rows.device)[ranked], rows[ranked]


@compiled()
def _find_pairs(offsets: IntArray, values: IntArray, row_of: IntArray) -> tuple[IntArray, IntArray]:
    """``_find_rows`` on a CPU, in one pass."""
    users, rows = np.empty_like(values), np.empty_like(values)
    count = 0
    for user in range(len(offsets) - 1):
        for at in range(offsets[user], offsets[user + 1]):
            if 0 < values[at] < len(row_of):
                users[count], rows[count] = user, row_of[values[at]]
                count += rows[count] >= 0
    return users[:count], rows[:count]


def _rank(users: Tensor, index: ItemIndex, n: int, hidden: Hidden) -> RankedItems:
    """Lists of a batch of users."""
    if not len(index):
        return RankedItems(
            torch.full((len(users), n), PADDING_ITEM, device=users.device),
            torch.full((len(users), n), -torch.inf, device=users.device),
        )
    if users.device.type != "cpu":
        return rank_all(users, index, n, hidden)
    rough = make_rough(users, index)
    floor = guess_floors(rough, index, n, hidden)
    found, lost = _rank_compiled(users, rough, index, n, hidden, floor)
    few = torch.nonzero(~lost & (found.scores[:, -1] < floor))[:, 0]
    # Too high a floor leaves too few. One that more items reach costs less than none.
    for wanted in (2 * n, None):
        if not len(few):
            break
        part, own = Rough(*(column[few] for column in rough)), hidden.of(few, len(users))
        floor = guess_floors(part, index, wanted, own)
        better, lost[few] = _rank_compiled(users[few], part, index, n, own, floor)
        found.items[few], found.scores[few] = better
        few = few[~lost[few] & (better.scores[:, -1] < floor)]
    again = torch.nonzero(lost)[:, 0]
    if len(again):
        better = rank_all(users[again], index, n, hidden.of(again, len(users)))
        found.items[again], found.scores[again] = better
    return found


def _rank_compiled(
    users: Tensor, rough: Rough, index: ItemIndex, n: int, hidden: Hidden, floor: Tensor
) -> tuple[RankedItems, Tensor]:
    """Lists of what reaches a floor, and who was lost, bool [users]."""
    wide = users.double()
    given = Users(
        *(column.numpy() for column in (wide, *rough[1:], doubt_sums(wide, index.longest)))
    )
    rows = Rows(index.vectors.numpy(), index.items.numpy())
    shape = len(users), _capacity(n)
    buffer = Buffer(
        np.zeros(len(users), np.int64), floor.clone().numpy(),
        np.empty(shape, np.int32), np.empty(shape, np.int32),
    )  # fmt: skip
    low, high = np.empty((2, shape[1]))
    scratch = Scratch(
        low, high, np.empty(shape[1], np.int32), np.empty(shape[1], np.int64),
        np.empty(BINS, np.int64),
    )  # fmt: skip
    blocks = describe_blocks(index)
    scan(rough, index, hidden, given, rows, blocks, n, buffer, scratch)
    found = RankedItems(
        torch.empty((len(users), n), dtype=torch.int64), torch.empty((len(users), n))
    )
    take_best(given, rows, blocks, n, buffer, scratch, found.items.numpy(), found.scores.numpy())
    return found, torch.from_numpy(buffer.filled) == LOST


def _capacity(n: int) -> int:
    """Candidates that there is space for: few, to be near, and enough to make room seldom.

    With many dims several times n items lie within the bounds of codes that are bytes.
    """
    return max(_LEAST_CAPACITY, 4 * n + min(4 * n, _LEAST_CAPACITY))
