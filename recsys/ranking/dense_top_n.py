"""The exact top-n from a float32 product with every item, on any device; see ``exact_top_n``.

Slower than the compiled loops, and there for GPUs and for the few users whom those can't rank.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recsys.ranking.candidates import TINY
from recsys.ranking.exact_scores import score_pairs
from recsys.ranking.item_index import ItemIndex
from recsys.ranking.rough_scores import Hidden
from recsys.ranking.top_n import PADDING_ITEM, RankedItems

_SCORES_AT_ONCE = 4_000_000
MOST_BYTES = 100 * _SCORES_AT_ONCE
"""Memory of ``rank_all`` where all scores are so near to each other that all are candidates."""
_LOWER_HALF, _TURN, _NO_KEY = 0xFFFFFFFF, 0x7FFFFFFF, -(2**63)


class Pairs(NamedTuple):
    """Candidates: rows of users and of the index, int64, and bounds of scores, float64."""

    user: Tensor
    row: Tensor
    low: Tensor
    high: Tensor


def float32_error(dims: int) -> float:
    """Bound of a float32 product's error, and of a score's last rounding, by |u| |v|."""
    error = (dims + 4) * 2.0**-24 * (1.0 + 2.0**-8)
    # torch may be told to multiply in TF32 or bfloat16.
    return error if torch.get_float32_matmul_precision() == "highest" else error + 2.0**-6


def rank_all(users: Tensor, index: ItemIndex, n: int, hidden: Hidden) -> RankedItems:
    """Lists of users, float32 [users, dims], on the device of the index."""
    size = max(1, _SCORES_AT_ONCE // max(1, len(index)))
    parts = []
    for some in torch.split(torch.arange(len(users), device=users.device), size):
        pairs = _compare_all(users[some], index, n, hidden.of(some, len(users)))
        parts.append(_take_best(users[some], index, n, pairs))
    return RankedItems(*(torch.cat(column) for column in zip(*parts, strict=True)))


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
    """Lists from candidates, which are by ascending user, on any device."""
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
