"""Compiled: exact scores of candidates, as numbers that sort as lists do.

A key sorts as score and item do: its upper half are the bits of the score, turned so that they sort
as it does, the lower half is larger for a lower item_idx.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from recsys.ranking.machine_code import compiled, intrinsic, types
from recsys.ranking.scan_state import Buffer, Floats, Rows, Scratch, Users

_HALF, _TURN = 0xFFFFFFFF, 0x7FFFFFFF
NO_KEY = -(2**63)
"""Sorts before all keys."""
_AHEAD = 16
"""Rows that are on their way from memory while one is multiplied."""
_LINE = 16
"""Numbers that come at once: 64 bytes."""


@intrinsic
def _prefetch(typing: Any, rows: Any, row: Any, column: Any) -> Any:
    """Ask memory for rows[row, column], which is used soon: candidates' rows lie anywhere.

    Args:
        rows: float32 [rows, dims], contiguous.
        row, column: a place in it.
    """

    def generate(context: Any, build: Any, signature: Any, values: Any) -> Any:
        array = context.make_array(rows)(context, build, values[0])
        before = build.mul(values[1], build.extract_value(array.shape, 1))
        place = build.gep(array.data, [build.add(before, values[2])])
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        name = "llvm.prefetch.p0"
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        fetch = build.module.globals.get(name) or ir.Function(build.module, kind, name)
        how = (ir.Constant(number, value) for value in (0, 3, 1))  # to read, to keep, data
        build.call(fetch, [build.bitcast(place, pointer), *how])
        return context.get_dummy_value()

    return types.none(rows, types.intp, types.intp), generate


@intrinsic
def _bits_of(typing: Any, number: Any) -> Any:
    """The bits of a float32, as an int32."""
    return types.int32(types.float32), lambda context, build, signature, values: build.bitcast(
        values[0], ir.IntType(32)
    )


@intrinsic
def _number_of(typing: Any, bits: Any) -> Any:
    """The float32 that an int32 holds the bits of."""
    return types.float32(types.int32), lambda context, build, signature, values: build.bitcast(
        values[0], ir.FloatType()
    )


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
def make_keys(
    users: Users, rows: Rows, user: int, buffer: Buffer, scratch: Scratch, first: int, count: int
) -> bool:
    """Score candidates from ``first`` to ``count`` as ``exact_scores`` says and write ``keys``.

    Returns:
        Whether that was possible.
    """
    for at in range(first, min(first + _AHEAD, count)):
        for column in range(0, rows.vectors.shape[1], _LINE):
            _prefetch(rows.vectors, buffer.rows[user, at], column)
    for at in range(first, count):
        row, ahead = buffer.rows[user, at], buffer.rows[user, min(at + _AHEAD, count - 1)]
        for column in range(0, rows.vectors.shape[1], _LINE):
            _prefetch(rows.vectors, ahead, column)
        total, doubt = _multiply(users.vectors, user, rows.vectors, row), users.doubt[user]
        score = np.float32(total - doubt)
        if score != np.float32(total + doubt):
            total, rest, error = _multiply_twice(users.vectors, user, rows.vectors, row)
            if total + (rest + math.copysign(error, rest)) != total:
                return False
            score = np.float32(total)
        upper = np.int64(_bits_of(score + np.float32(0.0)))  # -0.0 is 0.0
        if upper < 0:
            upper ^= _TURN
        scratch.keys[at] = (upper << 32) + (_HALF - rows.items[row])
    return True


@compiled()
def score_of(key: int) -> float:
    """The score in a key, a float32."""
    upper = key >> 32
    return _number_of(np.int32(upper ^ _TURN if upper < 0 else upper))


@compiled()
def read_keys(
    keys: npt.NDArray[np.int64], items: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]
) -> None:
    """Keys of users in rising order as lists; 0 and -inf behind their ends."""
    for user in range(len(items)):
        count = min(keys.shape[1], items.shape[1])
        best = keys[user, ::-1][:count]
        items[user, :count] = _HALF - (best & _HALF)
        for place in range(count):
            scores[user, place] = score_of(best[place])
        while count and best[count - 1] == NO_KEY:
            count -= 1
        items[user, count:], scores[user, count:] = 0, -np.inf
