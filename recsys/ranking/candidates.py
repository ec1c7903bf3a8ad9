"""Compiled loops of the exact top-n: candidates are sorted out and put in order.

A user's candidates lie in a row of a fixed size. When it is full, those that n others surely beat
leave it; where all are too near to each other for that, exact scores leave the n best. See
``exact_top_n`` for what is proven of scores and bounds.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recsys.ranking.item_index import BLOCK
from recsys.ranking.machine_code import compiled
from recsys.ranking.tiles import TILE_ITEMS

_HALF, _TURN = 0xFFFFFFFF, 0x7FFFFFFF
LARGEST = 2.0**31 - 1.0
"""No product of codes is as large."""
_BINS = 256
LOST = -1
"""Count of a user for whom a score lies so near to the middle of two float32 that even a sum in
twice the precision of float64 can't tell which one it is: somebody else has to rank."""

_SLACK = 2.0**-23
"""What rounding adds to a bound, by |u| (``radius`` + ``centre``)."""

TINY = 2.0**-120
"""More than what underflow changes in a score or a float32 product, for dims up to 2^16."""

Floats = npt.NDArray[np.float64]


class Users(NamedTuple):
    """A batch of users.

    Attributes:
        vectors: float64 [users, dims].
        scale, offset, size, wrong: as in ``rough_scores.Rough``, float64 [users].
        doubt: how far a sum in float64 may be from a score, float64 [users].
    """

    vectors: Floats
    scale: Floats
    offset: Floats
    size: Floats
    wrong: Floats
    doubt: Floats


class Rows(NamedTuple):
    """The items of an index.

    Attributes:
        vectors: float32 [rows, dims].
        items: int64 [rows].
    """

    vectors: npt.NDArray[np.float32]
    items: npt.NDArray[np.int64]


class Blocks(NamedTuple):
    """Blocks of rows, as ``ItemIndex`` describes them.

    Attributes:
        scale, radius, error: of each block, float64 [blocks].
        centre: the length of the items' centre.
    """

    scale: Floats
    radius: Floats
    error: Floats
    centre: float


class Buffer(NamedTuple):
    """Candidates of a batch. They are touched for each block, so there is little of each.

    Attributes:
        filled: how many each user has, int64 [users], or ``LOST``.
        floor: scores below are of no interest, float64 [users].
        rows: int32 [users, capacity].
        products: of their codes, int32 [users, capacity].
    """

    filled: npt.NDArray[np.int64]
    floor: Floats
    rows: npt.NDArray[np.int32]
    products: npt.NDArray[np.int32]


class Scratch(NamedTuple):
    """Of one user's candidates, [capacity].

    Attributes:
        low, high: bounds of scores, float64.
        keys: see ``_make_keys``, int64.
    """

    low: Floats
    high: Floats
    keys: npt.NDArray[np.int64]


@compiled()
def bound(wrong: float, size: float, radius: float, error: float, centre: float) -> float:
    """How far a score of a block may be from the rough one: see ``Users`` and ``Blocks``."""
    return wrong * radius + (size + wrong) * error + _SLACK * size * (radius + centre) + TINY


@compiled()
def find_product(users: Users, blocks: Blocks, buffer: Buffer, user: int, block: int) -> int:
    """The product of codes whose score may reach a user's floor, generously, as an int32.

    Of a user who is lost one that no product reaches.
    """
    floor = buffer.floor[user] if buffer.filled[user] != LOST else np.inf
    error = bound(
        users.wrong[user], users.size[user], blocks.radius[block], blocks.error[block],
        blocks.centre,
    )  # fmt: skip
    limit = floor - error - users.offset[user]
    limit /= users.scale[user] * blocks.scale[block]
    limit -= abs(limit) * 2.0**-20
    # Cut off, upwards where negative.
    return int(min(max(limit - 1.0, -LARGEST), LARGEST))


@compiled()
def make_room(
    users: Users, rows: Rows, blocks: Blocks, user: int, n: int, buffer: Buffer, scratch: Scratch,
    count: int,
) -> int:  # fmt: skip
    """Leave some of a row that is nearly full, and raise the floor."""
    count = _drop_beaten(users, blocks, user, n, buffer, scratch, count)
    if count + TILE_ITEMS <= buffer.rows.shape[1]:
        return count
    if not _make_keys(users, rows, user, buffer, scratch, count):
        return LOST
    best = np.argsort(scratch.keys[:count])[::-1][:n]
    buffer.rows[user, :n] = buffer.rows[user, :count][best]
    buffer.products[user, :n] = buffer.products[user, :count][best]
    last = _scores_of(scratch.keys[best[n - 1 : n]])[0]
    buffer.floor[user] = max(buffer.floor[user], np.float64(last))
    return n


@compiled()
def _find_last(values: Floats, count: int, n: int) -> float:
    """One of the first ``count`` values that at least n of them reach, and few more.

    By a histogram: to find the n-th largest itself costs more, and is not needed.
    """
    low, high = values[0], values[0]
    for at in range(count):
        low, high = min(low, values[at]), max(high, values[at])
    if not high - low > TINY:  # else a bin might be too narrow for a float64
        return low
    per_bin, bins = (_BINS - 1) / (high - low), np.zeros(_BINS, np.int64)
    for at in range(count):
        bins[int((values[at] - low) * per_bin)] += 1
    reached, lowest = 0, _BINS
    while reached < n:
        lowest -= 1
        reached += bins[lowest]
    last = high
    for at in range(count):
        if int((values[at] - low) * per_bin) >= lowest:
            last = min(last, values[at])
    return last


@compiled()
def _drop_beaten(
    users: Users, blocks: Blocks, user: int, n: int, buffer: Buffer, scratch: Scratch, count: int
) -> int:
    """Of more than n, drop those that n others surely beat."""
    wrong, size, scale, offset = (
        users.wrong[user], users.size[user], users.scale[user], users.offset[user],
    )  # fmt: skip
    for at in range(count):
        block = buffer.rows[user, at] // BLOCK
        middle = scale * blocks.scale[block] * buffer.products[user, at] + offset
        error = bound(wrong, size, blocks.radius[block], blocks.error[block], blocks.centre)
        scratch.low[at], scratch.high[at] = middle - error, middle + error
    last = _find_last(scratch.low, count, n)
    buffer.floor[user] = max(buffer.floor[user], last)
    kept = 0
    for at in range(count):
        if scratch.high[at] >= last:
            buffer.rows[user, kept] = buffer.rows[user, at]
            buffer.products[user, kept] = buffer.products[user, at]
            kept += 1
    return kept


@compiled("reassoc", "contract", "nsz")
def _multiply(ours: Floats, user: int, theirs: npt.NDArray[np.float32], row: int) -> float:
    """A dot product, added up in any order. (Whole arrays: counting references to parts costs.)"""
    total = 0.0
    for at in range(ours.shape[1]):
        total += ours[user, at] * np.float64(theirs[row, at])
    return total


@compiled()
def _add(one: float, other: float) -> tuple[float, float]:
    """The sum of two float64 and what it loses (Knuth's TwoSum)."""
    total = one + other
    added = total - one
    return total, (one - (total - added)) + (other - added)


@compiled()
def _multiply_twice(
    ours: Floats, user: int, theirs: npt.NDArray[np.float32], row: int
) -> tuple[float, float, float]:
    """A dot product as a float64, what it lacks, and how far off that may be, generously.

    Products are exact, and so is what each sum loses; only these losses are added up with errors.
    Source: Ogita, Rump and Oishi 2005, "Accurate sum and dot product", algorithm 4.4.
    """
    total, rest, size = 0.0, 0.0, 0.0
    for at in range(ours.shape[1]):
        total, lost = _add(total, ours[user, at] * np.float64(theirs[row, at]))
        rest += lost
        size += abs(lost)
    total, rest = _add(total, rest)
    return total, rest, size * ours.shape[1] * 2.0**-52


@compiled()
def _make_keys(
    users: Users, rows: Rows, user: int, buffer: Buffer, scratch: Scratch, count: int
) -> bool:
    """Score candidates as ``exact_scores`` says and write ``keys``; whether that was possible.

    A key sorts as score and item do: its upper half are the bits of the score, turned so that they
    sort as it does, the lower half is larger for a lower item_idx.
    """
    score = np.empty(1, np.float32)
    bits = score.view(np.int32)
    for at in range(count):
        row = buffer.rows[user, at]
        total, doubt = _multiply(users.vectors, user, rows.vectors, row), users.doubt[user]
        score[0] = np.float32(total - doubt)
        if score[0] != np.float32(total + doubt):
            total, rest, error = _multiply_twice(users.vectors, user, rows.vectors, row)
            if total + (rest + math.copysign(error, rest)) != total:
                return False
            score[0] = np.float32(total)
        score[0] += np.float32(0.0)  # -0.0 is 0.0
        upper = np.int64(bits[0])
        if upper < 0:
            upper ^= _TURN
        scratch.keys[at] = (upper << 32) + (_HALF - rows.items[row])
    return True


@compiled()
def _scores_of(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The scores in keys."""
    bits = np.empty(len(keys), np.int32)
    for at in range(len(keys)):
        upper = keys[at] >> 32
        bits[at] = upper ^ _TURN if upper < 0 else upper
    return bits.view(np.float32)


@compiled()
def take_best(
    users: Users, rows: Rows, blocks: Blocks, n: int, buffer: Buffer, scratch: Scratch,
    items: npt.NDArray[np.int64], scores: npt.NDArray[np.float32],
) -> None:  # fmt: skip
    """Write lists, int64 and float32 [users, n]; 0 and -inf behind their ends."""
    for user in range(len(items)):
        count = buffer.filled[user]
        if count > n:
            count = _drop_beaten(users, blocks, user, n, buffer, scratch, count)
        if count == LOST or not _make_keys(users, rows, user, buffer, scratch, count):
            buffer.filled[user] = LOST
            continue
        best = np.sort(scratch.keys[:count])[::-1][:n]
        items[user, : len(best)] = _HALF - (best & _HALF)
        scores[user, : len(best)] = _scores_of(best)
        items[user, len(best) :], scores[user, len(best) :] = 0, -np.inf
