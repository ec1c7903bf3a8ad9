"""Products of integer codes, some users by some items, compared while they are in registers.

A matrix product that writes its scores and a loop that reads them again cost up to twice what the
product costs: here a tile of products is kept in registers, and leaves them only where one of them
reaches its user's limit, which few do.

Codes are whole numbers so small that a product of two vectors, and how far it is from a limit, fit
into int32: all of it is exact. Sums begin at minus the limit: what reaches it is not negative,
which the signs of all sums together tell. Where the processor multiplies four pairs of bytes at
once and adds them up (`vpdpbusd`, of VNNI) codes are bytes: those of items are stored 128 higher,
as it takes one side without a sign, and sums begin as much lower. Elsewhere they are int16, and the
steps are plain operations on vectors of LLVM, which numba compiles for the machine that it is on
(`vpmaddwd` and `vpaddd` with AVX2; an instruction multiplies 16 codes, one of float32 8 numbers).
The shape of the tile is that of Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix
Multiplication", section 5: as many sums as there are registers, each operand loaded once for many.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from llvmlite import binding, ir
from torch import Tensor

from recsys.ranking.machine_code import intrinsic, types

PANEL = 32
"""Items whose codes lie together; of each word of dims those of all items follow each other."""

_FEATURES = binding.get_host_cpu_features()
_LANES = 16 if _FEATURES.get("avx512f") else 8
TILE_USERS, TILE_ITEMS = _LANES // 2, 2 * _LANES
"""What is multiplied at once: sums of so many users by so many items, which divide PANEL."""

MULTIPLIES_BYTES = bool(_FEATURES.get("avx512vnni" if _LANES == 16 else "avxvnni"))
"""Whether this processor multiplies bytes and adds up four products at once."""

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_SUMS, _MASK = ir.VectorType(_I32, _LANES), ir.IntType(_LANES)

LARGEST = 2**30 - 1
"""More than any product of codes; limits lie between minus it and it."""

Codes = npt.NDArray[np.uint8] | npt.NDArray[np.int16]
"""Of items, as ``pack_items`` lays them out."""

_RAISED = 128
"""By so much are the codes of items stored higher where they are bytes."""


def choose_codes(dims: int) -> torch.dtype:
    """int8 where this processor multiplies bytes fast, unless sums could grow too large; int16."""
    small = MULTIPLIES_BYTES and largest_code(dims, torch.int8) == 2**7 - 1
    return torch.int8 if small else torch.int16


def largest_code(dims: int, kind: torch.dtype) -> int:
    """The largest size of an int8 or int16: sums of ``dims`` products are below ``LARGEST``."""
    return min(math.isqrt((LARGEST - 1) // max(dims, 1)), torch.iinfo(kind).max)


def pack_items(codes: Tensor, rows: int) -> Tensor:
    """Codes of a block's items, [items, dims], as [rows / PANEL, words, PANEL, codes of a word].

    A word has 32 bits: two int16, or four bytes that are ``_RAISED``, uint8. Items are added up to
    ``rows``, which PANEL divides, and dims to fill a word.
    """
    items, dims = codes.shape
    padded = codes.new_zeros((rows, dims + -dims % codes_of_a_word(codes.dtype)))
    padded[:items, :dims] = codes
    if codes.dtype == torch.int8:
        padded = (padded.to(torch.int16) + _RAISED).to(torch.uint8)
    panels = padded.reshape(rows // PANEL, PANEL, -1, codes_of_a_word(codes.dtype))
    return panels.permute(0, 2, 1, 3)


def pack_users(codes: Tensor) -> npt.NDArray[np.int32]:
    """Codes of users, int8 or int16 [users, dims], as int32 [tiles, words + 1, TILE_USERS].

    There are zeros as in ``pack_items``. The last number of a user is what items' codes that are
    raised add to its products, to be taken off.
    """
    users, dims = codes.shape
    tiles = -(-users // TILE_USERS)
    padded = codes.new_zeros((tiles * TILE_USERS, dims + -dims % codes_of_a_word(codes.dtype)))
    padded[:users, :dims] = codes
    raised = _RAISED if codes.dtype == torch.int8 else 0
    added = padded.sum(dim=1, keepdim=True, dtype=torch.int32) * raised
    words = torch.cat([padded.view(torch.int32), added], dim=1)
    return words.reshape(tiles, TILE_USERS, -1).permute(0, 2, 1).contiguous().numpy()


def codes_of_a_word(kind: torch.dtype) -> int:
    """Codes that are multiplied together: those of 32 bits."""
    return 4 // kind.itemsize


@intrinsic
def multiply_steps(
    typing: Any, items: Any, first: Any, last: Any, users: Any, tile: Any, limits: Any,
    products: Any, masks: Any, places: Any,
) -> Any:  # fmt: skip
    """Multiply a tile's users by items; write steps in which a product reaches its user's limit.

    Of such a step all products are written. Items are counted in steps of TILE_ITEMS.

    Args:
        items: codes of panels, from ``pack_items``.
        first, last: steps from the first item on; the last one is left out.
        users: from ``pack_users``.
        tile: which of them.
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
    words = build.extract_value(arrays[0].shape, 1)
    codes = build.bitcast(arrays[0].data, _I32.as_pointer())
    multiply = _multiply_bytes if signature.args[0].dtype == types.uint8 else _multiply_pairs
    first_user = build.mul(tile, _whole(TILE_USERS))
    users = build.gep(arrays[3].data, [build.mul(first_user, build.add(words, _whole(1)))])
    added = build.gep(users, [build.mul(words, _whole(TILE_USERS))])
    limits = build.gep(arrays[5].data, [first_user])
    nothing = ir.Constant(_SUMS, None)
    below = [build.sub(nothing, _spread(build, limits, user)) for user in range(TILE_USERS)]
    start = [build.sub(below[user], _spread(build, added, user)) for user in range(TILE_USERS)]
    before = build.block
    loop, found, missed, done = (
        build.append_basic_block(name) for name in ("step", "found", "missed", "done")
    )
    build.cbranch(build.icmp_signed("<", first, last), loop, done)
    build.position_at_end(loop)
    step, count = build.phi(_I64), build.phi(_I64)
    step.add_incoming(first, before)
    count.add_incoming(_whole(0), before)
    sums = _multiply(build, multiply, _find(build, codes, step, words), users, words, start)
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


def _find(build: Any, codes: Any, step: Any, words: Any) -> Any:
    """Where the words of a step's items begin."""
    steps = PANEL // TILE_ITEMS
    panel, part = build.udiv(step, _whole(steps)), build.urem(step, _whole(steps))
    start = build.mul(build.mul(panel, words), _whole(PANEL))
    return build.gep(codes, [build.add(start, build.mul(part, _whole(TILE_ITEMS)))])


def _some_reach(build: Any, sums: list[list[Any]]) -> Any:
    """Whether any sum is not negative."""
    together, *others = [part for row in sums for part in row]
    for other in others:
        together = build.and_(together, other)
    negative = build.icmp_signed("<", together, ir.Constant(_SUMS, None))
    return build.icmp_unsigned("!=", build.bitcast(negative, _MASK), ir.Constant(_MASK, -1))


def _multiply(
    build: Any, multiply: Any, items: Any, users: Any, words: Any, start: list[Any]
) -> list[list[Any]]:
    """The sums of a tile, two vectors of items a user, and each user's ``start``.

    Args:
        multiply: adds the products of a word to sums.
    """
    before = build.block
    loop, after = (build.append_basic_block(name) for name in ("word", "multiplied"))
    build.branch(loop)
    build.position_at_end(loop)
    word = build.phi(_I64)
    word.add_incoming(_whole(0), before)
    sums = [[build.phi(_SUMS) for _ in range(2)] for _ in range(TILE_USERS)]
    at_codes = build.gep(items, [build.mul(word, _whole(PANEL))])
    codes = [
        build.load(build.bitcast(build.gep(at_codes, [_whole(at)]), _SUMS.as_pointer()), align=4)
        for at in (0, _LANES)
    ]
    at_word = build.gep(users, [build.mul(word, _whole(TILE_USERS))])
    for user, row in enumerate(sums):
        own = _spread(build, at_word, user)
        for part, code in zip(row, codes, strict=True):
            part.add_incoming(start[user], before)
            part.add_incoming(multiply(build, part, code, own), loop)
    following = build.add(word, _whole(1))
    word.add_incoming(following, loop)
    build.cbranch(build.icmp_signed("<", following, words), loop, after)
    build.position_at_end(after)
    return [[part.incomings[1][0] for part in row] for row in sums]


def _multiply_pairs(build: Any, sums: Any, items: Any, users: Any) -> Any:
    """Add products of int16, those of two neighbours: compilers have an instruction for it."""
    wide = ir.VectorType(_I32, 2 * _LANES)
    one, other = _split(build, items, _I16), _split(build, users, _I16)
    return _add_neighbours(build, sums, build.sext(one, wide), build.sext(other, wide))


def _multiply_bytes(build: Any, sums: Any, items: Any, users: Any) -> Any:
    """Add products of uint8 and int8, those of four neighbours.

    Compilers don't find the instruction for it by themselves.
    """
    one, other = _split(build, items, _I8), _split(build, users, _I8)
    if not MULTIPLIES_BYTES:
        wide = ir.VectorType(_I32, 4 * _LANES)
        return _add_neighbours(build, sums, build.zext(one, wide), build.sext(other, wide))
    name = f"llvm.x86.avx512.vpdpbusd.{32 * _LANES}"
    kind = ir.FunctionType(_SUMS, [_SUMS, one.type, other.type])
    add = build.module.globals.get(name) or ir.Function(build.module, kind, name)
    return build.call(add, [sums, one, other])


def _split(build: Any, words: Any, kind: Any) -> Any:
    """The codes of a vector of words."""
    return build.bitcast(words, ir.VectorType(kind, 32 // kind.width * _LANES))


def _add_neighbours(build: Any, sums: Any, one: Any, other: Any) -> Any:
    """Multiply numbers of vectors that are some times as long as ``sums``, add up neighbours."""
    products, count = build.mul(one, other, flags=("nsw",)), one.type.count
    nothing, total = ir.Constant(products.type, ir.Undefined), None
    for at in range(count // _LANES):
        places = ir.Constant(_SUMS, list(range(at, count, count // _LANES)))
        part = build.shuffle_vector(products, nothing, places)
        total = part if total is None else build.add(total, part)
    return build.add(sums, total)


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
