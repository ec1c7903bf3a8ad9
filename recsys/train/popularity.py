"""How often each item is a target, counted before training."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from recsys.train.batch import Batch
from recsys.train.communication import Group


def count_targets(
    batches: Iterable[Batch],
    targets_of: Callable[[Batch], tuple[Tensor, Tensor | None]],
    num_items: int,
    communicator: Group,
) -> Tensor:
    """Weighted number of targets of each item over all ranks, float64 [num_items + 1].

    Weights (see ``batch.Recency``) have no scale of their own, so the counts are scaled to the
    number of targets; without weights they are plain counts.
    """
    counts = torch.zeros(num_items + 2, dtype=torch.float64)
    for batch in batches:
        targets, weights = targets_of(batch)
        worth = torch.ones(len(targets)) if weights is None else weights
        counts.index_add_(0, targets, worth.double())
        counts[-1] += len(targets)
    summed = communicator.allreduce_sum(counts)
    counts, events = summed[:-1], summed[-1]
    return counts * (events / counts.sum().clamp(min=torch.finfo(torch.float64).tiny))
