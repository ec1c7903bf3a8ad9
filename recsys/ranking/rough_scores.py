"""The first pass of the exact top-n: all items that may be in a list are found; ``exact_top_n``."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recsys.ranking.candidates import bound, find_product, make_room
from recsys.ranking.item_index import BLOCK, ItemIndex, quantize
from recsys.ranking.machine_code import compiled
from recsys.ranking.scan_state import LOST, Blocks, Buffer, Rows, Scratch, Users
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


class Hidden(NamedTuple):
    """What no list may have.

    Attributes:
        user, row: pairs, int64.
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
        codes: int8 or int16 [users, dims].
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
    codes, scale, wrong = quantize(users.double() @ index.rotation, index.kind, per_row=True)
    return Rough(codes, scale, users.double() @ index.centre, size, wrong)


def describe_blocks(index: ItemIndex) -> Blocks:
    """What the loops are told of an index's blocks."""
    centre = float(torch.linalg.vector_norm(index.centre))
    return Blocks(index.scale.numpy(), index.radius.numpy(), index.error.numpy(), centre)


class HiddenPairs(NamedTuple):
    """Users and rows that they must not have, block by block.

    Attributes:
        user, row: int64 [pairs].
        edges: where the pairs of each block begin, and the last ones end, int64 [blocks + 1].
    """

    user: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    edges: npt.NDArray[np.int64]


_PANELS_AT_ONCE = 4
"""Their codes, some 16 KB, stay in the first cache while all users pass."""
_PANELS, _STEPS = BLOCK // PANEL, PANEL // TILE_ITEMS


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
    closed = torch.ones(len(index.radius) * BLOCK, dtype=torch.bool)
    closed[: len(index)] = False if hidden.closed is None else hidden.closed
    pairs = _sort_pairs(hidden.user.numpy(), hidden.row.numpy(), len(index.radius))
    _scan(
        index.codes.numpy(), pack_users(rough.codes), pairs, to_bits(closed).reshape(-1, _PANELS),
        users, rows, blocks, n, buffer, scratch,
    )  # fmt: skip


@compiled()
def _sort_pairs(
    user: npt.NDArray[np.int64], row: npt.NDArray[np.int64], blocks: int
) -> HiddenPairs:
    """Pairs by their block (a counting sort)."""
    edges = np.zeros(blocks + 1, np.int64)
    for at in range(len(row)):
        edges[row[at] // BLOCK + 1] += 1
    edges = np.cumsum(edges)
    next_place, users, rows = edges.copy(), np.empty_like(user), np.empty_like(row)
    for at in range(len(row)):
        block = row[at] // BLOCK
        place = next_place[block]
        users[place], rows[place] = user[at], row[at]
        next_place[block] += 1
    return HiddenPairs(users, rows, edges)


def to_bits(flags: Tensor) -> npt.NDArray[np.uint32]:
    """Flags [rows] as numbers of 32 of them, the first is the lowest bit."""
    return np.packbits(flags.numpy(), bitorder="little").view(np.dtype("<u4"))


@compiled()
def _scan(
    codes: Codes, tiles: npt.NDArray[np.int32], pairs: HiddenPairs,
    closed: npt.NDArray[np.uint32], users: Users, rows: Rows, blocks: Blocks, n: int,
    buffer: Buffer, scratch: Scratch,
) -> None:  # fmt: skip
    """``scan``, block by block.

    Its inner loops call nothing that is given arrays: references to them would be counted.

    Args:
        closed: a bit a row, uint32 [blocks, panels of a block].
    """
    limits = np.full((len(tiles), TILE_USERS), np.int32(LARGEST), np.int32)
    steps = _PANELS_AT_ONCE * _STEPS
    products = np.empty((steps, TILE_USERS, TILE_ITEMS), np.int32)
    masks, places = np.empty((steps, TILE_USERS), np.uint32), np.empty(steps, np.int64)
    hits = np.empty(masks.size, np.int64)
    hidden = np.zeros((len(tiles), _PANELS, TILE_USERS), np.uint32)
    filled, kept, kept_products = buffer.filled, buffer.rows, buffer.products
    for block in range(len(blocks.radius)):
        _begin_block(users, blocks, buffer, pairs, block, limits.reshape(-1), hidden)
        for first in range(block * _PANELS * _STEPS, (block + 1) * _PANELS * _STEPS, steps):
            for tile in range(len(tiles)):
                found = multiply_steps(
                    codes, first, first + steps, tiles, tile, limits, products, masks, places
                )
                # Listed without a branch: which users a step hits can't be predicted.
                count_hits = 0
                for at in range(found):
                    panel, bit = places[at] // _STEPS % _PANELS, places[at] % _STEPS * TILE_ITEMS
                    for place in range(TILE_USERS):
                        covered = closed[block, panel] | hidden[tile, panel, place]
                        masks[at, place] &= ~(covered >> np.uint32(bit))
                        hits[count_hits] = at * TILE_USERS + place
                        count_hits += masks[at, place] != 0
                for hit in range(count_hits):
                    at, place = hits[hit] // TILE_USERS, hits[hit] % TILE_USERS
                    row, left = places[at] * TILE_ITEMS, masks[at, place]
                    user = tile * TILE_USERS + place
                    count = filled[user]
                    if count + TILE_ITEMS > kept.shape[1]:
                        count = make_room(users, rows, blocks, user, n, buffer, scratch, count)
                    while left and count != LOST:
                        item = lowest_bit(left)
                        kept[user, count] = row + item
                        kept_products[user, count] = products[at, place, item]
                        left &= left - np.uint32(1)
                        count += 1
                    filled[user] = count


@compiled()
def _begin_block(
    users: Users, blocks: Blocks, buffer: Buffer, pairs: HiddenPairs, block: int,
    limits: npt.NDArray[np.int32], hidden: npt.NDArray[np.uint32],
) -> None:  # fmt: skip
    """Write what products are compared with, and a bit for each pair that is left out of a list.

    Args:
        limits: int32 [tiles * TILE_USERS].
        hidden: uint32 [tiles, panels, TILE_USERS], of the block before.
    """
    radius, error, scale, centre = (
        blocks.radius[block], blocks.error[block], blocks.scale[block], blocks.centre,
    )  # fmt: skip
    for user in range(len(buffer.filled)):
        floor = buffer.floor[user] if buffer.filled[user] != LOST else np.inf
        unsure = bound(users.wrong[user], users.size[user], radius, error, centre)
        limits[user] = find_product(floor, unsure, users.offset[user], users.scale[user] * scale)
    for at in range(pairs.edges[max(block - 1, 0)], pairs.edges[block]):
        user, row = pairs.user[at], pairs.row[at] % BLOCK
        hidden[user // TILE_USERS, row // PANEL, user % TILE_USERS] = 0
    for at in range(pairs.edges[block], pairs.edges[block + 1]):
        user, row = pairs.user[at], pairs.row[at] % BLOCK
        bit = np.uint32(1) << np.uint32(row % PANEL)
        hidden[user // TILE_USERS, row // PANEL, user % TILE_USERS] |= bit
