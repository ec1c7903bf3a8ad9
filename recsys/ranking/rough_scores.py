"""The first pass of the exact top-n: which items a floor does not exclude; see ``exact_top_n``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recsys.ranking.item_index import BLOCK, ItemIndex, quantize
from recsys.ranking.top_n import IntArray

_CHUNK = 32
BLOCKS_AT_ONCE = 32
TINY = 2.0**-120
"""More than what underflow changes in a score or a float32 product, for dims up to 2^16."""


class Pairs(NamedTuple):
    """Candidates: rows of users and of the index, int64, and bounds of scores, float64."""

    user: Tensor
    row: Tensor
    low: Tensor
    high: Tensor


class Hidden(NamedTuple):
    """What no list may have.

    Attributes:
        user, row: pairs, int64, by ascending row.
        closed: rows that are hidden from all users, bool [rows]; None: no row is.
    """

    user: Tensor
    row: Tensor
    closed: Tensor | None = None


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


def bound_errors(rough: Rough, index: ItemIndex, blocks: slice) -> Tensor:
    """How far scores in blocks may be from rough ones, float64 [blocks, users]; above 0."""
    radius, error = index.radius[blocks, None], index.error[blocks, None]
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


def scan(users: Tensor, index: ItemIndex, hidden: Hidden, floor: Tensor) -> Iterator[Pairs]:
    """Pairs that may have a score of at least their user's floor, some at a time, on the CPU.

    Args:
        users: float32 [users, dims].
        hidden: what to leave out.
        floor: float64 [users]; may be raised while this goes on.
    """
    rough = make_rough(users, index)
    products = _Products(rough.codes, index, hidden)
    for start in range(0, len(index.radius), BLOCKS_AT_ONCE):
        span = slice(start, start + BLOCKS_AT_ONCE)
        error = bound_errors(rough, index, span)
        scale = rough.scale * index.scale[span, None]
        limits = products.limits((floor - error - rough.offset) / scale).numpy()
        found = [products.find(start + at, limit) for at, limit in enumerate(limits)]
        user, row, value = _look_closer(found, limits)
        block, row = row // BLOCK, row + start * BLOCK
        middle = scale[block, user] * value + rough.offset[user]
        yield Pairs(user, row, middle - error[block, user], middle + error[block, user])


def _look_closer(
    found: Sequence[tuple[IntArray, npt.NDArray[Any]]], limits: npt.NDArray[Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """User, row (from the first block's) and product where that reaches its limit.

    Args:
        found: of each block what ``_Products.find`` gives.
        limits: [blocks, users].
    """
    chunks = BLOCK // _CHUNK
    block = np.repeat(np.arange(len(found)), [len(chunk) for chunk, _ in found])
    chunk = np.concatenate([chunk for chunk, _ in found])
    values = np.concatenate([values for _, values in found])
    user = chunk // chunks
    inside = np.flatnonzero(values >= limits[block, user][:, None])
    place = inside // _CHUNK
    row = (block * chunks + chunk % chunks)[place] * _CHUNK + inside % _CHUNK
    parts = (user[place], row, values.reshape(-1)[inside])
    return torch.from_numpy(parts[0]), torch.from_numpy(parts[1]), torch.from_numpy(parts[2])


class _Products:
    """Products of users' codes with those of an index, block by block in one buffer."""

    def __init__(self, codes: Tensor, index: ItemIndex, hidden: Hidden) -> None:
        self._codes, self._index = codes, index
        self._exact = len(index.codes) > 0
        kind = torch.int32 if self._exact else torch.float32
        self._scores = torch.empty((len(codes), BLOCK), dtype=kind)
        self._chunks = self._scores.view(len(codes), -1, _CHUNK)
        self._lowest = -(2**31) if self._exact else -np.inf
        self._flat = self._scores.numpy().reshape(-1)
        self._hidden = (hidden.user * BLOCK + hidden.row % BLOCK).numpy()
        self._closed = hidden.closed
        edges = torch.arange(0, len(index) + BLOCK, BLOCK)
        self._edges = torch.searchsorted(hidden.row, edges).tolist()

    def limits(self, limits: Tensor) -> Tensor:
        """Numbers to compare products with, rounded down generously."""
        if self._exact:
            return (torch.floor(limits) - 1.0).clamp(-(2.0**31) + 1, 2.0**31 - 1).int()
        return (limits - limits.abs() * 2.0**-20).clamp(-3e38, 3e38).float()

    def find(self, block: int, limits: npt.NDArray[Any]) -> tuple[IntArray, npt.NDArray[Any]]:
        """Chunks of the buffer whose maximum reaches their user's limit, and what is in them.

        Most don't, and are not looked at one by one. numpy's comparisons and ``flatnonzero`` take
        a third of the time of torch's.
        """
        self._multiply(block)
        self._flat[self._hidden[self._edges[block] : self._edges[block + 1]]] = self._lowest
        if self._closed is not None:
            closed = torch.nonzero(self._closed[block * BLOCK : (block + 1) * BLOCK])[:, 0]
            self._scores[:, closed] = self._lowest
        best = self._chunks.amax(dim=2).numpy()
        chunk = np.flatnonzero(best >= limits[:, None])
        return chunk, np.take(self._flat.reshape(-1, _CHUNK), chunk, axis=0)

    def _multiply(self, block: int) -> None:
        first, scores = block * BLOCK, self._scores
        columns = min(BLOCK, len(self._index) - first)
        if self._exact:
            torch._int_mm(self._codes, self._index.codes[block], out=scores)
        else:
            part = self._index.vectors[first : first + columns]
            torch.mm(self._codes, part.T, out=scores[:, :columns])
        if columns < BLOCK:
            scores[:, columns:] = self._lowest
