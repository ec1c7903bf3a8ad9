"""What the compiled loops of the exact top-n are given: see ``candidates``."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

LOST = -1
"""Count of a user for whom a score lies so near to the middle of two float32 that even a sum in
twice the precision of float64 can't tell which one it is: somebody else has to rank."""

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
        rows: of the index, int32.
        keys: see ``exact_keys``, int64.
        bins: see ``candidates.find_last``, int64 [BINS].
    """

    low: Floats
    high: Floats
    rows: npt.NDArray[np.int32]
    keys: npt.NDArray[np.int64]
    bins: npt.NDArray[np.int64]
