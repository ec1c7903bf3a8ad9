"""The first pass of the exact top-n: which items a floor does not exclude; see ``exact_top_n``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recsys.ranking.item_index import BLOCK, ItemIndex, quantize

_CHUNK = 32
TINY = 2.0**-120
"""More than what underflow changes in a score or a float32 product, for dims up to 2^16."""


class Pairs(NamedTuple):
    """Candidates: rows of users and of the index, int64, and bounds of scores, float64."""

    user: Tensor
    row: Tensor
    low: Tensor
    high: Tensor


class Rough(NamedTuple):
    """Users in the form of an index: the score of a row is ``scale`` * product + ``offset``.

    Attributes:
        codes: int8 or float32 [users, dims], whose products with the index's are taken.
        scale, offset: float64 [users].
        size: norms of the vectors, float64 [users].
        wrong: norms of what rounding changed, float64 [users].
    """

    codes: Tensor
    scale: Tensor
    offset: Tensor
    size: Tensor
    wrong: Tensor


def make_rough(users: Tensor, index: ItemIndex) -> Rough:
    """Round float32 [users, dims] as the index's vectors were."""
    size = torch.linalg.vector_norm(users.double(), dim=1)
    if not len(index.codes):
        nothing = torch.zeros_like(size)
        return Rough(users, torch.ones_like(size), nothing, size, nothing)
    codes, scale, wrong = quantize(users.double() @ index.rotation, per_row=True)
    return Rough(codes, scale, users.double() @ index.centre, size, wrong)


def bound_error(rough: Rough, index: ItemIndex, block: int) -> Tensor:
    """How far a score in a block may be from the rough one, float64 [users]; above 0."""
    radius, error = index.radius[block], index.error[block]
    slack = 2.0**-23 if len(index.codes) else float32_error(index.dims)
    reach = radius + torch.linalg.vector_norm(index.centre)
    return (
        rough.wrong * radius + (rough.size + rough.wrong) * error + slack * rough.size * reach
    ) + TINY


def float32_error(dims: int) -> float:
    """Bound of a float32 product's error, and of a score's last rounding, by |u| |v|."""
    error = (dims + 4) * 2.0**-24 * (1.0 + 2.0**-8)
    # torch may be told to multiply in TF32 or bfloat16.
    return error if torch.get_float32_matmul_precision() == "highest" else error + 2.0**-6


def scan(
    users: Tensor, index: ItemIndex, hidden: tuple[Tensor, Tensor], floor: Tensor
) -> Iterator[Pairs]:
    """Pairs that may have a score of at least their user's floor, block by block, on the CPU.

    Args:
        users: float32 [users, dims].
        hidden: user and row of pairs to leave out, int64, by ascending row.
        floor: float64 [users]; may be raised between blocks.
    """
    rough = make_rough(users, index)
    kind = torch.int32 if len(index.codes) else torch.float32
    lowest = -(2**31) if len(index.codes) else -torch.inf
    scores = torch.empty((len(users), BLOCK), dtype=kind)
    edges = torch.searchsorted(hidden[1], torch.arange(0, len(index) + BLOCK, BLOCK)).tolist()
    for block in range(len(index.radius)):
        first = block * BLOCK
        part = index.vectors[first : first + BLOCK]
        if len(index.codes):
            torch._int_mm(rough.codes, index.codes[block], out=scores)
        else:
            torch.mm(users, part.T, out=scores[:, : len(part)])
        scores[:, len(part) :] = lowest
        out = slice(edges[block], edges[block + 1])
        scores[hidden[0][out], hidden[1][out] - first] = lowest
        error = bound_error(rough, index, block)
        scale = rough.scale * index.scale[block]
        limit = _limit((floor - error - rough.offset) / scale, kind)
        user, column, found = _find(scores, limit)
        if len(user):
            middle = scale[user] * found + rough.offset[user]
            yield Pairs(user, column + first, middle - error[user], middle + error[user])


def _limit(limit: Tensor, kind: torch.dtype) -> Tensor:
    """Numbers to compare rough scores with, rounded down generously."""
    if kind == torch.int32:
        return (torch.floor(limit) - 1.0).clamp(-(2.0**31) + 1, 2.0**31 - 1).to(kind)
    return (limit - limit.abs() * 2.0**-20).clamp(-3e38, 3e38).to(kind)


def _find(scores: Tensor, limit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """User, column and value of the scores that reach their user's limit, by ascending user.

    Most have a chunk's maximum below it, and are not looked at one by one. numpy's comparisons and
    ``flatnonzero`` take a third of the time of torch's.
    """
    best = scores.view(len(scores), -1, _CHUNK).amax(dim=2).numpy()
    limits, chunks = limit.numpy(), best.shape[1]
    chunk = np.flatnonzero(best >= limits[:, None])
    values = np.take(scores.numpy().reshape(-1, _CHUNK), chunk, axis=0)
    inside = np.flatnonzero(values >= limits[chunk // chunks][:, None])
    place = chunk[inside // _CHUNK]
    user, column = place // chunks, place % chunks * _CHUNK + inside % _CHUNK
    return (
        torch.from_numpy(user), torch.from_numpy(column),
        torch.from_numpy(values.reshape(-1)[inside]),
    )  # fmt: skip
