"""Guessed floors: few items reach one, and for nearly all users as many as a list has."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.ranking.floors import guess_floors
from recsys.ranking.item_index import ItemIndex, build_index
from recsys.ranking.rough_scores import Hidden, make_rough

pytestmark = pytest.mark.torch

ITEMS, USERS, N = 20_000, 200, 50


def make_index() -> tuple[ItemIndex, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    vectors = torch.randn(ITEMS + 1, 16, generator=generator) + 1.0
    users = torch.randn(USERS, 16, generator=generator)
    return build_index(vectors, torch.ones(ITEMS + 1, dtype=torch.bool)), users


def count_above(index: ItemIndex, users: torch.Tensor, hidden: Hidden) -> np.ndarray:
    """Items that may be in a user's list and reach the guessed floor."""
    floors = guess_floors(make_rough(users, index), index, N, hidden)
    scores = users.double() @ index.vectors.double().T
    scores[hidden.user, hidden.row] = -torch.inf
    if hidden.closed is not None:
        scores[:, hidden.closed] = -torch.inf
    return np.asarray((scores >= floors[:, None]).sum(dim=1))


@pytest.mark.parametrize("share_closed", [0.0, 0.5, 0.9])
def test_slightly_more_items_than_a_list_has_reach_the_floor(share_closed: float) -> None:
    index, users = make_index()
    # The best of each user are those that most likely were seen.
    best = torch.topk(users @ index.vectors.T, 300, dim=1).indices[:, ::2]
    user = torch.arange(USERS).repeat_interleave(best.shape[1])
    closed = torch.rand(len(index), generator=torch.Generator().manual_seed(6)) < share_closed
    above = count_above(index, users, Hidden(user, best.flatten(), closed))
    assert np.mean(above >= N) > 0.99
    assert np.median(above) < 8 * N


def test_a_small_catalogue_has_no_floor() -> None:
    vectors = torch.randn(101, 8, generator=torch.Generator().manual_seed(7))
    index = build_index(vectors, torch.ones(101, dtype=torch.bool))
    nothing = Hidden(*torch.zeros((2, 0), dtype=torch.int64))
    assert torch.isinf(guess_floors(make_rough(vectors[1:4], index), index, 60, nothing)).all()
