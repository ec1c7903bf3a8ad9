"""Products of integer codes, some users by some items, compared while they are in registers.

A matrix product that writes its scores and a loop that reads them again cost up to twice what the
product costs: here a tile of products is kept in registers, and leaves them only where one of them
reaches its user's limit, which few do.

Codes are int16, so small that a product of two vectors, and how far it is from a limit, fit into
int32 (``largest_code``): all of it is exact. Sums begin at minus the limit: what reaches it is not
negative, which the signs of all sums together tell. The steps are plain operations on vectors of
LLVM, which numba compiles for the machine that it is on: `vpmaddwd` and `vpaddd` with AVX2 (an
instruction multiplies 16 codes, one of float32 8 numbers), `vpdpwssd` with VNNI, something else on
other processors; the numbers are the same. The shape of the tile is that of Goto and van de Geijn
2008, "Anatomy of High-Performance Matrix Multiplication", section 5: as many sums as there are
registers, each operand loaded once for many.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from llvmlite import binding, ir
from torch import Tensor

from recsys.ranking.machine_code import intrinsic, types

PANEL = 32
"""Items whose codes lie together; of each pair of dims those of all items follow each other."""

_LANES = 16 if binding.get_host_cpu_features().get("avx512f") else 8
TILE_USERS, TILE_ITEMS = _LANES // 2, 2 * _LANES
"""What is multiplied at once: sums of so many users by so many items, which divide PANEL."""

_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_CODES, _SUMS = ir.VectorType(_I16, 2 * _LANES), ir.VectorType(_I32, _LANES)
_MASK = ir.IntType(_LANES)


LARGEST = 2**30 - 1
"""More than any product of codes; limits lie between minus it and it."""


def largest_code(dims: int) -> int:
    """The largest size of a code: sums of products of ``dims`` of them are below ``LARGEST``."""
    return min(math.isqrt((LARGEST - 1) // max(dims, 1)), 2**15 - 1)


def pack_items(codes: Tensor, rows: int) -> Tensor:
    """Codes of a block's items, int16 [items, dims], as [rows / PANEL, dims / 2, PANEL, 2].

    Zeros are added: items up to ``rows``, which PANEL divides, and a dim where dims are odd.
    """
    items, dims = codes.shape
    padded = codes.new_zeros((rows, dims + dims % 2))
    padded[:items, :dims] = codes
    panels = padded.reshape(rows // PANEL, PANEL, -1, 2)
    return panels.permute(0, 2, 1, 3)


def pack_users(codes: Tensor) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Codes of users, int16 [users, dims], as int32 [tiles, dims / 2, TILE_USERS].

    A number holds two dims of a user; there are zeros as in ``pack_items``.
    """
    users, dims = codes.shape
    tiles = -(-users // TILE_USERS)
    padded = codes.new_zeros((tiles * TILE_USERS, dims + dims % 2))
    padded[:users, :dims] = codes
    pairs = padded.view(torch.int32).reshape(tiles, TILE_USERS, -1)
    return pairs.permute(0, 2, 1).contiguous().numpy()


@intrinsic
def multiply_steps(
    typing: Any, items: Any, first: Any, last: Any, users: Any, tile: Any, limits: Any,
    products: Any, masks: Any, places: Any,
) -> Any:  # fmt: skip
    """Multiply a tile's users by items; write steps in which a product reaches its user's limit.

    Of such a step all products are written. Items are counted in steps of TILE_ITEMS.

    Args:
        items: codes of panels, int16 [panels, dims / 2, PANEL, 2].
        first, last: steps from the first item on; the last one is left out.
        users: int32 [tiles, dims / 2, TILE_USERS].
        tile: the users.
        limits: int32 [tiles, TILE_USERS], between -LARGEST and LARGEST.
        products: int32 [steps, TILE_USERS, TILE_ITEMS], for ``last - first`` steps, as the next.
        masks: a bit an item, uint32 [steps, TILE_USERS]: its product is at least the limit.
        places: which steps they are, int64 [steps].

    Returns:
        How many steps were written.
    """
    index = types.intp
    signature = index(items, index, index, users, index, limits, products, masks, places)
    return signature, _generate


@intrinsic
def lowest_bit(typing: Any, mask: Any) -> Any:
    """The place of the lowest bit of a uint32 that is not 0."""

    def generate(context: Any, build: Any, signature: Any, values: Any) -> Any:
        place = build.cttz(values[0], ir.Constant(ir.IntType(1), 1))
        return build.zext(place, _I64)

    return types.intp(types.uint32), generate


def _generate(context: Any, build: Any, signature: Any, values: Any) -> Any:
    arrays = {
        at: context.make_array(signature.args[at])(context, build, values[at])
        for at in (0, 3, 5, 6, 7, 8)
    }
    first, last, tile = values[1], values[2], values[4]
    pairs = build.extract_value(arrays[0].shape, 1)
    first_user = build.mul(tile, _whole(TILE_USERS))
    users = build.gep(arrays[3].data, [build.mul(first_user, pairs)])
    limits = build.gep(arrays[5].data, [first_user])
    nothing = ir.Constant(_SUMS, None)
    below = [build.sub(nothing, _spread(build, limits, user)) for user in range(TILE_USERS)]
    before = build.block
    loop, found, missed, done = (
        build.append_basic_block(name) for name in ("step", "found", "missed", "done")
    )
    build.cbranch(build.icmp_signed("<", first, last), loop, done)
    build.position_at_end(loop)
    step, count = build.phi(_I64), build.phi(_I64)
    step.add_incoming(first, before)
    count.add_incoming(_whole(0), before)
    sums = _multiply(build, _find(build, arrays[0].data, step, pairs), users, pairs, below)
    multiplied = build.block
    build.cbranch(_some_reach(build, sums), found, missed)
    build.position_at_end(found)
    _write(build, sums, below, count, arrays[6].data, arrays[7].data)
    build.store(step, build.gep(arrays[8].data, [count]))
    more = build.add(count, _whole(1))
    build.branch(missed)
    build.position_at_end(missed)
    written, following = build.phi(_I64), build.add(step, _whole(1))
    written.add_incoming(count, multiplied)
    written.add_incoming(more, found)
    step.add_incoming(following, missed)
    count.add_incoming(written, missed)
    build.cbranch(build.icmp_signed("<", following, last), loop, done)
    build.position_at_end(done)
    result = build.phi(_I64)
    result.add_incoming(_whole(0), before)
    result.add_incoming(written, missed)
    return result


def _find(build: Any, codes: Any, step: Any, pairs: Any) -> Any:
    """Where the codes of a step's items begin."""
    steps = PANEL // TILE_ITEMS
    panel, part = build.udiv(step, _whole(steps)), build.urem(step, _whole(steps))
    start = build.mul(build.mul(panel, pairs), _whole(2 * PANEL))
    return build.gep(codes, [build.add(start, build.mul(part, _whole(2 * TILE_ITEMS)))])


def _some_reach(build: Any, sums: list[list[Any]]) -> Any:
    """Whether any sum is not negative."""
    together, *others = [part for row in sums for part in row]
    for other in others:
        together = build.and_(together, other)
    negative = build.icmp_signed("<", together, ir.Constant(_SUMS, None))
    return build.icmp_unsigned("!=", build.bitcast(negative, _MASK), ir.Constant(_MASK, -1))


def _multiply(build: Any, items: Any, users: Any, pairs: Any, start: list[Any]) -> list[list[Any]]:
    """The sums of a tile, two vectors of items a user, and each user's ``start``."""
    before = build.block
    loop, after = (build.append_basic_block(name) for name in ("pair", "multiplied"))
    build.branch(loop)
    build.position_at_end(loop)
    pair = build.phi(_I64)
    pair.add_incoming(_whole(0), before)
    sums = [[build.phi(_SUMS) for _ in range(2)] for _ in range(TILE_USERS)]
    at_codes = build.gep(items, [build.mul(pair, _whole(2 * PANEL))])
    codes = [
        build.load(
            build.bitcast(build.gep(at_codes, [_whole(2 * at)]), _CODES.as_pointer()), align=2
        )
        for at in (0, _LANES)
    ]
    at_pair = build.gep(users, [build.mul(pair, _whole(TILE_USERS))])
    for user, row in enumerate(sums):
        own = build.bitcast(_spread(build, at_pair, user), _CODES)
        for part, code in zip(row, codes, strict=True):
            part.add_incoming(start[user], before)
            part.add_incoming(build.add(part, _multiply_pairs(build, code, own)), loop)
    following = build.add(pair, _whole(1))
    pair.add_incoming(following, loop)
    build.cbranch(build.icmp_signed("<", following, pairs), loop, after)
    build.position_at_end(after)
    return [[part.incomings[1][0] for part in row] for row in sums]


def _multiply_pairs(build: Any, one: Any, other: Any) -> Any:
    """Products of int16, those of two neighbours added: compilers have an instruction for it."""
    wide = ir.VectorType(_I32, 2 * _LANES)
    products = build.mul(build.sext(one, wide), build.sext(other, wide), flags=("nsw",))
    nothing = ir.Constant(wide, ir.Undefined)
    even, odd = (
        build.shuffle_vector(products, nothing, ir.Constant(_SUMS, list(range(at, 2 * _LANES, 2))))
        for at in (0, 1)
    )
    return build.add(even, odd)


def _write(build: Any, sums: Any, below: list[Any], step: Any, products: Any, masks: Any) -> None:
    """The products of a step and which of them reach the limit, at the place ``step``."""
    products = build.gep(products, [build.mul(step, _whole(TILE_USERS * TILE_ITEMS))])
    masks = build.gep(masks, [build.mul(step, _whole(TILE_USERS))])
    for user, row in enumerate(sums):
        mask = ir.Constant(_I32, 0)
        for at, part in enumerate(row):
            place = build.gep(products, [_whole(user * TILE_ITEMS + at * _LANES)])
            product = build.sub(part, below[user])
            build.store(product, build.bitcast(place, _SUMS.as_pointer()), align=4)
            reached = build.icmp_signed(">=", part, ir.Constant(_SUMS, None))
            word = build.zext(build.bitcast(reached, _MASK), _I32)
            mask = build.or_(mask, build.shl(word, ir.Constant(_I32, at * _LANES)))
        build.store(mask, build.gep(masks, [_whole(user)]))


def _spread(build: Any, numbers: Any, at: int) -> Any:
    """A vector of the same number, numbers[at]."""
    number = build.load(build.gep(numbers, [_whole(at)]), align=4)
    nothing, first = ir.Constant(_SUMS, ir.Undefined), ir.Constant(_SUMS, [0] * _LANES)
    return build.shuffle_vector(build.insert_element(nothing, number, _whole(0)), nothing, first)


def _whole(value: int) -> Any:
    return ir.Constant(_I64, value)
