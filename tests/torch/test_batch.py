"""Targets of a batch and what they are worth."""

from datetime import date

import numpy as np
import pytest
import torch

from recsys.train.batch import Recency, make_batch

pytestmark = pytest.mark.torch

ROWS = np.array([[0, 0, 5, 6, 7], [1, 2, 3, 4, 5], [0, 0, 0, 0, 9]], dtype=np.int32)


def test_positions_have_a_real_item_and_a_real_next_item() -> None:
    batch = make_batch(ROWS, None)
    targets, weights = batch.choose_targets(1)
    inputs = batch.items[:, :-1].flatten()[batch.positions]
    assert inputs.tolist() == [5, 6, 1, 2, 3, 4]
    assert targets.tolist() == [6, 7, 2, 3, 4, 5]
    assert weights is None


def test_a_horizon_draws_from_the_next_items_of_the_same_window() -> None:
    batch = make_batch(ROWS, None)
    allowed = [{6, 7}, {7}, {2, 3, 4}, {3, 4, 5}, {4, 5}, {5}]
    torch.manual_seed(0)
    drawn = torch.stack([batch.choose_targets(3)[0] for _ in range(300)])
    assert [set(column.tolist()) for column in drawn.T] == allowed
    shares = (drawn[:, 2] == 2).float().mean()
    assert shares == pytest.approx(1 / 3, abs=0.1)


def test_weights_halve_with_age_and_follow_their_targets() -> None:
    end = 20_031 * 24  # hours: the end of 2024-11-03
    hours = np.array([[0, 0, end - 48, end - 24, end]] * 3, dtype=np.int32)
    recency = Recency(half_life_days=1.0, run_date=date(2024, 11, 3))
    batch = make_batch(np.concatenate([ROWS, hours], axis=1), recency)
    assert torch.equal(batch.items, make_batch(ROWS, None).items)
    targets, weights = batch.choose_targets(1)
    assert targets[:2].tolist() == [6, 7]
    assert weights is not None
    assert weights[:2].tolist() == [0.5, 1.0]
    assert weights.min() == pytest.approx(2.0**-20)  # however old


def test_an_empty_batch() -> None:
    targets, weights = make_batch(ROWS[:0], None).choose_targets(3)
    assert len(targets) == 0
    assert weights is None
