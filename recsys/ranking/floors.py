"""Guessed floors of the exact top-n: scores that slightly more than n items should reach.

A floor is only a guess: whose list turns out not to reach it is ranked again without one.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recsys.ranking.candidates import BINS, find_last
from recsys.ranking.item_index import ItemIndex
from recsys.ranking.machine_code import compiled
from recsys.ranking.rough_scores import Hidden, Rough, to_bits
from recsys.ranking.tiles import (
    LARGEST,
    PANEL,
    TILE_ITEMS,
    TILE_USERS,
    Codes,
    lowest_bit,
    multiply_steps,
    pack_users,
)

_TOGETHER = 8
_STEPS = PANEL // TILE_ITEMS


def guess_floors(rough: Rough, index: ItemIndex, n: int | None, hidden: Hidden) -> Tensor:
    """From the products of a sample of items, float64 [users]; -inf: any score.

    Of items that lie far from each other in the sample the largest product alone is looked at:
    little is lost, and much faster.

    Args:
        n: items that should reach them; None: all.
    """
    if n is None:
        return torch.full_like(rough.size, -torch.inf)
    codes, scale, size = index.sample
    place = _place(n * size / len(index))
    steps = max(1, len(codes) * _STEPS // _TOGETHER)
    if 2 * place > steps * TILE_ITEMS:
        return torch.full_like(rough.size, -torch.inf)
    left_out = torch.ones(len(codes) * PANEL, dtype=torch.bool)
    left_out[:size] = False if hidden.closed is None else hidden.closed[:: index.stride]
    inside = hidden.row & (index.stride - 1) == 0  # a power of two
    products = _find_places(
        codes.numpy(), pack_users(rough.codes), to_bits(left_out), hidden.user[inside].numpy(),
        hidden.row[inside].numpy() // index.stride, steps, place,
    )  # fmt: skip
    return torch.from_numpy(products)[: len(rough.size)] * scale * rough.scale + rough.offset


def _place(expected: float) -> int:
    """Place in the sample of the item whose score becomes the floor.

    Of the n best items so many are expected in the sample; with this margin one user in some
    thousands has too high a floor, and is scanned again without one.
    """
    return math.ceil(expected + 3.5 * math.sqrt(expected) + 1.5)


@compiled()
def _keep_larger(best: npt.NDArray[np.int32], others: npt.NDArray[np.int32], count: int) -> None:
    """Keep the larger one of each of the first ``count`` numbers."""
    for at in range(count):
        best[at] = max(best[at], others[at])


@compiled()
def _find_places(
    codes: Codes, tiles: npt.NDArray[np.int32], left_out: npt.NDArray[np.uint32],
    user: npt.NDArray[np.int64], row: npt.NDArray[np.int64], steps: int, place: int,
) -> npt.NDArray[np.float64]:  # fmt: skip
    """A product that ``place`` columns of a user reach, and few more, float64 [users]; -inf: none.

    Args:
        codes, tiles: of the sample and of users, see ``multiply_steps``.
        left_out: a bit a row of the sample, uint32 [panels].
        user, row: pairs that are left out besides.
        steps: columns, in steps of TILE_ITEMS; each has the largest product of its rows.
    """
    hidden = np.empty((len(tiles) * TILE_USERS, len(left_out)), np.uint32)
    hidden[:] = left_out
    for at in range(len(row)):
        hidden[user[at], row[at] // PANEL] |= np.uint32(1) << np.uint32(row[at] % PANEL)
    anything = np.full((len(tiles), TILE_USERS), np.int32(-LARGEST), np.int32)
    shape = steps, TILE_USERS, TILE_ITEMS
    products, best = np.empty(shape, np.int32), np.empty(shape, np.int32)
    masks, places = np.empty((steps, TILE_USERS), np.uint32), np.empty(steps, np.int64)
    values, found = np.empty(steps * TILE_ITEMS), np.empty(len(hidden))
    bins = np.empty(BINS, np.int64)
    for tile in range(len(tiles)):
        best[:] = np.int32(-LARGEST)
        for first in range(0, len(codes) * _STEPS, steps):
            last = min(first + steps, len(codes) * _STEPS)
            multiply_steps(codes, first, last, tiles, tile, anything, products, masks, places)
            for step in range(first, last):
                panel, bit = step // _STEPS, np.uint32(step % _STEPS * TILE_ITEMS)
                for own in range(TILE_USERS):
                    covered = (
                        hidden[tile * TILE_USERS + own, panel] >> bit & masks[step - first, own]
                    )
                    while covered:
                        products[step - first, own, lowest_bit(covered)] = -LARGEST
                        covered &= covered - np.uint32(1)
            _keep_larger(
                best.reshape(-1), products.reshape(-1), (last - first) * TILE_USERS * TILE_ITEMS
            )
        for own in range(TILE_USERS):
            count = 0
            for step in range(steps):
                for at in range(TILE_ITEMS):
                    values[count] = best[step, own, at]
                    count += best[step, own, at] > -LARGEST
            enough = count >= place
            found[tile * TILE_USERS + own] = (
                find_last(values, count, place, bins) if enough else -np.inf
            )
    return found
