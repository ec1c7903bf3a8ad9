"""Pairs of user and item out of a batch: windows of one event."""

from __future__ import annotations

from torch import Tensor

from recsys.train.batch import Batch


def users_of(batch: Batch) -> Tensor:
    """user_idx of each pair, int64 [pairs]."""
    assert batch.user_idx is not None, "the feed was asked for users"
    return batch.user_idx


def items_of(batch: Batch) -> Tensor:
    """item_idx of each pair, int64 [pairs]."""
    return batch.items[:, -1]


def weights_of(batch: Batch) -> Tensor | None:
    """What each pair is worth, float32 [pairs]; None: all the same."""
    return None if batch.weights is None else batch.weights[:, -1]
