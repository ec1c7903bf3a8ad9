"""Validation during training: the rank of every real target among all items."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from recsys.models import SASRec
from recsys.models.losses import chunk_positions
from recsys.train.batch import Batch
from recsys.train.communication import Communicator

K = 10
NDCG = f"validation_ndcg_at_{K}"
HIT_RATE = f"validation_hit_rate_at_{K}"
LOSS = "validation_loss"


@torch.no_grad()
def validate(
    model: SASRec, batches: Iterable[Batch], communicator: Communicator, device: torch.device
) -> dict[str, float]:
    """NDCG@10, hit rate@10 and mean -log softmax of the next item, over all ranks' positions.

    Every position with a next item counts once; its target is ranked among all items, a tie
    counts against it. With one target, DCG is 1 / log2(rank + 1) and the ideal DCG is 1. Sums
    are added up over ranks in float64, so all ranks return the same numbers.
    """
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64)
    vectors = model.item_vectors()[1:]
    for made in batches:
        batch = made.to(device)
        if not len(batch.positions):
            continue
        hidden = model(batch.items[:, :-1]).flatten(0, 1).index_select(0, batch.positions)
        targets = batch.items[:, 1:].flatten()[batch.positions]
        step = chunk_positions(len(vectors), device)
        for start in range(0, len(targets), step):
            chunk = slice(start, start + step)
            sums += _sum_chunk(hidden[chunk], vectors, targets[chunk] - 1).cpu()
    ndcg, hits, loss, count = communicator.allreduce_sum(sums).tolist()
    count = max(count, 1.0)
    return {NDCG: ndcg / count, HIT_RATE: hits / count, LOSS: loss / count}


def _sum_chunk(hidden: Tensor, vectors: Tensor, columns: Tensor) -> Tensor:
    """Sums float64 [4] over positions: NDCG, hits, loss, positions."""
    scores = hidden @ vectors.T
    wanted = scores.gather(1, columns[:, None])
    ranks = (scores >= wanted).sum(dim=1)
    hit = ranks <= K
    ndcg = torch.where(hit, 1.0 / torch.log2(ranks.double() + 1.0), 0.0).sum()
    loss = (torch.logsumexp(scores, dim=1) - wanted[:, 0]).double().sum()
    return torch.stack([ndcg, hit.double().sum(), loss, ndcg.new_tensor(float(len(columns)))])
