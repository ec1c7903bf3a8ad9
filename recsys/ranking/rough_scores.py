"""The first pass of the exact top-n: rough scores and how far they may be off; ``exact_top_n``."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recsys.ranking.candidates import Blocks, Buffer, Rows, Scratch, Users, collect
from recsys.ranking.item_index import BLOCK, ItemIndex, quantize


class Hidden(NamedTuple):
    """What no list may have.

    Attributes:
        user, row: pairs, int64, by ascending row.
        closed: rows that are hidden from all users, bool [rows]; None: no row is.
    """

    user: Tensor
    row: Tensor
    closed: Tensor | None = None

    def of(self, some: Tensor, users: int) -> Hidden:
        """Those of some of all users, int64 [some], who are renumbered."""
        place = torch.full((users,), -1, dtype=torch.int64, device=some.device)
        place[some] = torch.arange(len(some), device=some.device)
        kept = place[self.user] >= 0
        return Hidden(place[self.user][kept], self.row[kept], self.closed)


class Rough(NamedTuple):
    """Users in the form of an index: the score of a row is ``scale`` * product + ``offset``.

    Attributes:
        codes: int8 [users, dims], or their float32 vectors where the index has no codes.
        scale: float64 [users], to be multiplied by the block's.
        offset: the product with the index's centre, float64 [users].
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


def float32_error(dims: int) -> float:
    """Bound of a float32 product's error, and of a score's last rounding, by |u| |v|."""
    error = (dims + 4) * 2.0**-24 * (1.0 + 2.0**-8)
    # torch may be told to multiply in TF32 or bfloat16.
    return error if torch.get_float32_matmul_precision() == "highest" else error + 2.0**-6


def describe_blocks(index: ItemIndex) -> Blocks:
    """What the loops are told of an index's blocks."""
    slack = 2.0**-23 if len(index.codes) else float32_error(index.dims)
    centre = float(torch.linalg.vector_norm(index.centre))
    return Blocks(index.scale.numpy(), index.radius.numpy(), index.error.numpy(), centre, slack)


def scan(
    rough: Rough, index: ItemIndex, hidden: Hidden, users: Users, rows: Rows, blocks: Blocks,
    n: int, buffer: Buffer, scratch: Scratch,
) -> None:  # fmt: skip
    """Collect all that may be in lists of n, on the CPU.

    Args:
        rough: the users, as the index has its items.
        hidden: what to leave out.
        users, rows, blocks, buffer, scratch: what the loops are given.
    """
    whole = len(index.codes) > 0
    scores = torch.empty((len(rough.codes), BLOCK), dtype=torch.int32 if whole else torch.float32)
    products = scores.numpy()
    flat, lowest = products.reshape(-1), -(2**31) if whole else -np.inf
    pairs = (hidden.user * BLOCK + hidden.row % BLOCK).numpy()
    edges = torch.searchsorted(hidden.row, torch.arange(0, len(index) + BLOCK, BLOCK)).tolist()
    limits = np.empty(1, products.dtype)
    for block in range(len(index.radius)):
        part = slice(block * BLOCK, min((block + 1) * BLOCK, len(index)))
        real = part.stop - part.start
        if whole:
            torch._int_mm(rough.codes, index.codes[block], out=scores)
        else:
            torch.mm(rough.codes, index.vectors[part].T, out=scores[:, :real])
        scores[:, real:] = lowest
        if hidden.closed is not None:
            scores[:, torch.nonzero(hidden.closed[part])[:, 0]] = lowest
        flat[pairs[edges[block] : edges[block + 1]]] = lowest
        collect(products, block, users, rows, blocks, n, buffer, scratch, limits, whole)
