"""Compiled loops of the exact top-n: candidates are sorted out and put in order.

A user's candidates lie in a row of a fixed size. When it is full, those that n others surely beat
leave it; where all are too near to each other for that, exact scores leave the n best. See
``exact_top_n`` for what is proven of scores and bounds.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recsys.ranking.exact_keys import NO_KEY, make_keys, read_keys, score_of
from recsys.ranking.item_index import BLOCK
from recsys.ranking.machine_code import compiled
from recsys.ranking.scan_state import LOST, Blocks, Buffer, Floats, Rows, Scratch, Users
from recsys.ranking.tiles import LARGEST, TILE_ITEMS
from recsys.ranking.top_n import IntArray

BINS = 256

_SLACK = 2.0**-23
"""What rounding adds to a bound, by |u| (``radius`` + ``centre``)."""

TINY = 2.0**-120
"""More than what underflow changes in a score or a float32 product, for dims up to 2^16."""


@compiled()
def bound(wrong: float, size: float, radius: float, error: float, centre: float) -> float:
    """How far a score of a block may be from the rough one: see ``Users`` and ``Blocks``."""
    return wrong * radius + (size + wrong) * error + _SLACK * size * (radius + centre) + TINY


@compiled()
def find_product(floor: float, error: float, offset: float, scale: float) -> int:
    """The product of codes whose score may reach a floor, generously, as an int32.

    Args:
        floor: inf for a user who is lost: no product reaches it.
        error: the ``bound`` of the user and the block.
        offset: as in ``rough_scores.Rough``.
        scale: the user's, times the block's.
    """
    limit = (floor - error - offset) / scale
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
    if not make_keys(users, rows, user, buffer, scratch, 0, count):
        return LOST
    best = np.argsort(scratch.keys[:count])[::-1][:n]
    buffer.rows[user, :n] = buffer.rows[user, :count][best]
    buffer.products[user, :n] = buffer.products[user, :count][best]
    last = score_of(scratch.keys[best[n - 1]])
    buffer.floor[user] = max(buffer.floor[user], np.float64(last))
    return n


@compiled("nnan", "nsz", "reassoc")
def _find_range(values: Floats, count: int) -> tuple[float, float]:
    """The smallest and the largest of the first ``count`` values, at least one."""
    low, high = values[0], values[0]
    for at in range(1, count):
        low, high = min(low, values[at]), max(high, values[at])
    return low, high


@compiled()
def find_last(values: Floats, count: int, n: int, bins: IntArray) -> float:
    """A number that at least n of the first ``count`` values reach, and few more.

    By a histogram: to find the n-th largest itself costs more, and is not needed.

    Args:
        values: finite, float64 [count or more].
        count: at least n.
        n: at least 1.
        bins: int64 [BINS], overwritten.
    """
    low, high = _find_range(values, count)
    if not high - low > TINY:  # else a bin might be too narrow for a float64
        return low
    bins[:] = 0
    per_bin = (BINS - 1) / (high - low)
    for at in range(count):
        bins[np.uint64((values[at] - low) * per_bin)] += 1
    reached, lowest = 0, BINS
    while reached < n:
        lowest -= 1
        reached += bins[lowest]
    # What is in that bin is at least this large: the roundings above are below 2^-50 of it.
    return low + lowest / per_bin * (1.0 - 2.0**-48)


@compiled()
def _drop_beaten(
    users: Users, blocks: Blocks, user: int, n: int, buffer: Buffer, scratch: Scratch, count: int
) -> int:  # fmt: skip
    """Of more than n, drop those that n others surely beat."""
    last = _find_bounds(users, blocks, user, n, buffer, scratch, count)
    buffer.floor[user] = max(buffer.floor[user], last)
    kept = 0
    for at in range(count):  # without a branch: which are kept can't be predicted
        buffer.rows[user, kept] = buffer.rows[user, at]
        buffer.products[user, kept] = buffer.products[user, at]
        kept += scratch.high[at] >= last
    return kept


@compiled()
def _find_bounds(
    users: Users, blocks: Blocks, user: int, n: int, buffer: Buffer, scratch: Scratch, count: int
) -> float:
    """Write between which numbers scores lie, ``low`` and ``high``; what n of them surely reach."""
    wrong, size, scale, offset = (
        users.wrong[user], users.size[user], users.scale[user], users.offset[user],
    )  # fmt: skip
    for at in range(count):
        # Unsigned: what might be negative is not divided in a vector.
        block = np.uint64(buffer.rows[user, at]) // np.uint64(BLOCK)
        middle = scale * blocks.scale[block] * buffer.products[user, at] + offset
        error = bound(wrong, size, blocks.radius[block], blocks.error[block], blocks.centre)
        scratch.low[at], scratch.high[at] = middle - error, middle + error
    return find_last(scratch.low, count, n, scratch.bins)


@compiled()
def _score(
    users: Users, rows: Rows, blocks: Blocks, user: int, n: int, buffer: Buffer, scratch: Scratch,
    count: int,
) -> int:  # fmt: skip
    """Write the keys of a user's candidates that may be in a list, and say how many they are.

    Those that are surely among the n best of the bounds come first: of the others none is needed
    whose score can't reach the lowest of theirs, and that is far above what they surely reach.
    """
    if count == LOST:
        return LOST
    if count <= n:
        return count if make_keys(users, rows, user, buffer, scratch, 0, count) else LOST
    last = _find_bounds(users, blocks, user, n, buffer, scratch, count)
    first, others = 0, 0
    for at in range(count):  # without a branch, as above
        row, sure = buffer.rows[user, at], scratch.low[at] >= last
        buffer.rows[user, first], scratch.rows[others] = row, row
        scratch.high[others] = scratch.high[at]
        first += sure
        others += (not sure) & (scratch.high[at] >= last)
    if not make_keys(users, rows, user, buffer, scratch, 0, first):
        return LOST
    lowest, count = scratch.keys[0], first
    for at in range(1, first):
        lowest = min(lowest, scratch.keys[at])
    floor = np.float64(score_of(lowest))
    for at in range(others):
        buffer.rows[user, count] = scratch.rows[at]
        count += scratch.high[at] >= floor
    return count if make_keys(users, rows, user, buffer, scratch, first, count) else LOST


@compiled()
def _score_rest(
    users: Users, rows: Rows, blocks: Blocks, n: int, buffer: Buffer, scratch: Scratch,
    keys: npt.NDArray[np.int64],
) -> int:  # fmt: skip
    """Write the keys of all that may be in lists, int64 [users, capacity], and say how many."""
    most = 0
    for user in range(len(keys)):
        count = _score(users, rows, blocks, user, n, buffer, scratch, buffer.filled[user])
        if count == LOST:
            buffer.filled[user] = LOST
            count = 0
        keys[user, :count], keys[user, count:] = scratch.keys[:count], NO_KEY
        most = max(most, count)
    return most


def take_best(
    users: Users, rows: Rows, blocks: Blocks, n: int, buffer: Buffer, scratch: Scratch,
    items: npt.NDArray[np.int64], scores: npt.NDArray[np.float32],
) -> None:  # fmt: skip
    """Write lists, int64 and float32 [users, n]; 0 and -inf behind their ends."""
    keys = np.empty(buffer.rows.shape, np.int64)
    most = _score_rest(users, rows, blocks, n, buffer, scratch, keys)
    # numpy sorts with vectors, several times as fast as compiled loops do.
    read_keys(np.sort(keys[:, :most], axis=1), items, scores)
