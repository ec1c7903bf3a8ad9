"""Tiles of products of codes against numpy's int64, and the threshold that spares a sort."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.ranking import tiles
from recsys.ranking.candidates import BINS, TINY, find_last
from recsys.ranking.tiles import (
    LARGEST,
    PANEL,
    TILE_ITEMS,
    TILE_USERS,
    largest_code,
    multiply_steps,
    pack_items,
    pack_users,
)

pytestmark = pytest.mark.torch


_TOGETHER = 5


def multiply_all(
    items: np.ndarray, users: np.ndarray, limits: np.ndarray, found: np.ndarray, bits: np.ndarray
) -> None:
    """Write what ``multiply_steps`` hands out, at the place of its tile."""
    last = len(items) * (PANEL // TILE_ITEMS)
    products = np.empty((last, TILE_USERS, TILE_ITEMS), np.int32)
    masks, places = np.empty((last, TILE_USERS), np.uint32), np.empty(last, np.int64)
    for tile in range(len(users)):
        for first in range(0, last, _TOGETHER):
            end = min(first + _TOGETHER, last)
            written = multiply_steps(
                items, first, end, users, tile, limits, products, masks, places
            )
            for at in range(written):
                found[tile, :, places[at]], bits[tile, :, places[at]] = products[at], masks[at]


@pytest.fixture(scope="module", params=["as this processor does", "step by step"])
def compiled(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Not kept on the disk: the tile is compiled into it."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "step by step":
            patch.setattr(tiles, "MULTIPLIES_BYTES", False)
        yield numba.njit(multiply_all)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from([torch.int8, torch.int16]),
    seed=st.integers(0, 2**31),
    users=st.integers(1, 3 * TILE_USERS),
    items=st.integers(1, 3 * PANEL),
    dims=st.integers(1, 70),
    extreme=st.booleans(),
    share=st.sampled_from([0.0, 0.01, 0.2, 1.0]),
)
def test_products_are_exact_and_those_that_reach_a_limit_are_found(
    compiled: Any,
    kind: torch.dtype,
    seed: int,
    users: int,
    items: int,
    dims: int,
    extreme: bool,
    share: float,
) -> None:
    dice, most = np.random.default_rng(seed), largest_code(dims, kind)
    ours, theirs = (
        dice.integers(-most, most, (rows, dims), endpoint=True) for rows in (users, items)
    )
    if extreme:
        ours, theirs = np.full_like(ours, most), np.where(theirs < 0, -most, most)
    product = ours @ theirs.T
    rows = -(-items // PANEL) * PANEL
    packed = pack_items(torch.from_numpy(theirs).to(kind), rows).contiguous().numpy()
    words = pack_users(torch.from_numpy(ours).to(kind))
    # Users that are not there ask for nothing; a limit that none, some or all products reach.
    limits = np.full(len(words) * TILE_USERS, LARGEST, np.int32)
    limits[:users] = np.quantile(product, 1.0 - share, axis=1, method="higher") + (share == 0.0)
    steps = rows // TILE_ITEMS
    found = np.zeros((len(words), TILE_USERS, steps, TILE_ITEMS), np.int32)
    bits = np.zeros((len(words), TILE_USERS, steps), np.uint32)
    compiled(packed, words, limits.reshape(-1, TILE_USERS), found, bits)
    reached = (bits[..., None] >> np.arange(TILE_ITEMS, dtype=np.uint32)) & 1 == 1
    reached = reached.reshape(-1, rows)[:users, :items]
    assert (reached == (product >= limits[:users, None])).all()
    assert (found.reshape(-1, rows)[:users, :items][reached] == product[reached]).all()


def test_the_largest_codes_of_any_dims_fit_their_sum() -> None:
    for kind in (torch.int8, torch.int16):
        for dims in [*range(1, 3000), 2**16]:
            assert dims * largest_code(dims, kind) ** 2 < LARGEST
            assert largest_code(dims, kind) >= 127


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_at_least_n_values_reach_the_last_one(data: st.DataObject) -> None:
    kind = st.sampled_from([0.0, 1.0, -1e-36, 5e-324]) | st.floats(-1e38, 1e38)
    values = np.array(data.draw(st.lists(kind, min_size=1, max_size=60)))
    n = data.draw(st.integers(1, len(values)))
    last = find_last(np.append(values, np.inf), len(values), n, np.empty(BINS, np.int64))
    # Above it lies the n-th largest, by no more than a bin.
    assert values.min() <= last <= np.sort(values)[-n]
    width = (values.max() - values.min()) / (BINS - 1)
    assert np.sort(values)[-n] - last <= width * (1.0 + 1e-9) + TINY
    assert (values >= last).sum() >= n


def test_few_more_than_n_values_reach_the_last_one() -> None:
    values = np.random.default_rng(1).standard_normal(500)
    assert (values >= find_last(values, 500, 100, np.empty(BINS, np.int64))).sum() <= 110
