"""Validation during training: the rank of every real target among all items."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from recsys.models import SequenceTransformer
from recsys.models.losses import Excluded, chunk_positions, exclude
from recsys.train.batch import Batch
from recsys.train.communication import Communicator

K = 10
NDCG = f"validation_ndcg_at_{K}"
HIT_RATE = f"validation_hit_rate_at_{K}"
LOSS = "validation_loss"

FindTargets = Callable[[Batch], tuple[Batch, Tensor]]
"""A batch whose positions have a target, and the targets' item_idx, int64 [positions]."""


@torch.no_grad()
def validate(
    model: SequenceTransformer,
    batches: Iterable[Batch],
    communicator: Communicator,
    device: torch.device,
    exclude_own_items: bool = False,
    find_targets: FindTargets | None = None,
) -> dict[str, float]:
    """NDCG@10, hit rate@10 and mean -log softmax of the target, over all ranks' positions.

    Targets are the next items, or what ``find_targets`` (on ``device``) makes of a batch. Every
    position with a target counts once; its target is ranked among all items, a tie
    counts against it. With one target, DCG is 1 / log2(rank + 1) and the ideal DCG is 1. Sums
    are added up over ranks in float64, so all ranks return the same numbers.
    """
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64)
    vectors = model.item_vectors()
    for made in batches:
        batch, targets = (find_targets or next_items)(made.to(device))
        if not len(batch.positions):
            continue
        hidden = model(batch.items[:, :-1], vectors, **batch.inputs(model.config.looks_at))
        hidden = hidden.flatten(0, 1).index_select(0, batch.positions)
        step = chunk_positions(len(vectors), device)
        for start in range(0, len(targets), step):
            chunk = slice(start, start + step)
            had = _items_before(batch, chunk) if exclude_own_items else None
            sums += _sum_chunk(hidden[chunk], vectors, targets[chunk, None], had).cpu()
    return average_figures(sums, communicator)


def average_figures(sums: Tensor, communicator: Communicator) -> dict[str, float]:
    """Means over all ranks' positions, from each rank's sums of ``sum_figures``."""
    ndcg, hits, loss, count = communicator.allreduce_sum(sums).tolist()
    count = max(count, 1.0)
    return {NDCG: ndcg / count, HIT_RATE: hits / count, LOSS: loss / count}


def next_items(batch: Batch) -> tuple[Batch, Tensor]:
    """The batch, and the item after each of its positions, int64 [positions]."""
    return batch, batch.items[:, 1:].flatten()[batch.positions]


def new_items(batch: Batch) -> tuple[Batch, Tensor]:
    """As ``next_items``, where the user has not had the item before: lists have no other ones."""
    targets = next_items(batch)[1]
    new = find_new(batch, targets)
    return replace(batch, positions=batch.positions[new]), targets[new]


def find_new(batch: Batch, targets: Tensor) -> Tensor:
    """Whether each position's target is none of the window's items up to it, bool [positions].

    Args:
        targets: item_idx, int64 [positions].
    """
    before = _items_before(batch, slice(None)).items
    return (before != targets[:, None]).all(dim=1)


def _items_before(batch: Batch, chunk: slice) -> Excluded:
    """Of each position: the items up to it."""
    length = batch.items.shape[1]
    row, column = batch.positions[chunk] // (length - 1), batch.positions[chunk] % (length - 1)
    later = torch.arange(length, device=row.device) > column[:, None]
    items = batch.items.index_select(0, row).masked_fill(later, 0)
    return Excluded(items, torch.arange(len(items), device=row.device))


def _sum_chunk(
    hidden: Tensor, vectors: Tensor, targets: Tensor, excluded: Excluded | None
) -> Tensor:
    """Sums float64 [4] over positions: NDCG, hits, loss, positions."""
    scores = exclude(hidden @ vectors.T, targets, excluded, slice(None))
    wanted = scores.gather(1, targets)
    ranks = (~(scores < wanted)).sum(dim=1)  # of a model that diverged (NaN) the last one
    return sum_figures(ranks, torch.logsumexp(scores, dim=1) - wanted[:, 0])


def sum_figures(ranks: Tensor, losses: Tensor) -> Tensor:
    """Sums float64 [4] over positions: NDCG, hits, loss, positions.

    Args:
        ranks: of the targets, from 1, int64 [positions].
        losses: float [positions].
    """
    hit = ranks <= K
    ndcg = torch.where(hit, 1.0 / torch.log2(ranks.double() + 1.0), 0.0).sum()
    count = ndcg.new_tensor(float(len(ranks)))
    return torch.stack([ndcg, hit.double().sum(), losses.double().sum(), count])
