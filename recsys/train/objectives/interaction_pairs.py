"""Interactions: pairs of user and item that happened, beside pairs that are drawn."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

from recsys.models import CollaborativeNetwork
from recsys.train.batch import Batch
from recsys.train.communication import Communicator
from recsys.train.job import TrainingJob
from recsys.train.objectives.contract import Objective, Wanted, no_loss
from recsys.train.objectives.pairs import items_of, users_of, weights_of
from recsys.train.optimization import step_seed
from recsys.train.rows import Channels

K, CANDIDATES = 10, 100
NDCG = f"validation_sampled_ndcg_at_{K}"
LOSS = "validation_loss"


class InteractionPairs(Objective):
    """Binary cross-entropy of each pair and of ``train.negatives_per_positive`` drawn ones.

    Negatives are drawn evenly from all items but the pair's own, anew in each step; that a user has
    one of them elsewhere is rare and left in. Of a pair and its negatives the mean counts, so a
    training's loss is Keras' mean over all examples.

    Validation ranks a pair's item among 100 items that are drawn once, the same for all pairs,
    epochs and ranks: it chooses the best epoch, and is no figure to compare with a ranking of the
    whole catalogue (Krichene and Rendle 2020, "On Sampled Metrics").
    """

    main_metric = NDCG

    def __init__(self, job: TrainingJob, device: torch.device) -> None:
        super().__init__(job, device)
        self._num_items = job.num_items
        draw = torch.Generator().manual_seed(step_seed(self.settings.seed, 0, rank=-1))
        candidates = torch.randperm(job.num_items, generator=draw)[:CANDIDATES] + 1
        self._candidates = candidates.to(device)

    @staticmethod
    def channels(job: TrainingJob) -> Channels:
        recency = job.settings.train.recency_half_life_days is not None
        return Channels(hours=recency, user_idx=True)

    def touched_rows(self, ranks: int) -> int:
        return self.rows_of_windows(ranks, 1 + self.settings.negatives_per_positive)

    def popular(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        return items_of(batch), weights_of(batch)

    def choose(self, batch: Batch) -> Wanted:
        """Targets are items, int64 [pairs, 1 + negatives]: the pair's own, then those drawn."""
        own = items_of(batch)[:, None]
        shape = (len(own), self.settings.negatives_per_positive)
        drawn = torch.randint(1, max(2, self._num_items), shape)
        others = (drawn + (drawn >= own)).clamp(max=self._num_items)
        return Wanted(batch, torch.cat([own, others], dim=1), weights_of(batch))

    def sum_losses(self, model: CollaborativeNetwork, wanted: Wanted, drawn: None) -> Tensor:
        if not len(wanted.targets):
            return no_loss(model)
        batch = wanted.batch.to(self.device)
        logits = model(users_of(batch), wanted.targets.to(self.device, non_blocking=True)).float()
        happened = torch.zeros_like(logits)
        happened[:, 0] = 1.0
        losses = functional.binary_cross_entropy_with_logits(logits, happened, reduction="none")
        means = losses.mean(dim=1)
        if wanted.weights is not None:
            means = means * wanted.weights.to(self.device, non_blocking=True)
        return means.sum()

    @torch.no_grad()
    def validate(
        self, model: CollaborativeNetwork, batches: Iterable[Batch], communicator: Communicator
    ) -> dict[str, float]:
        """NDCG@10 of the pair's item among the candidates (a tie counts against it), and the loss
        that training has on average, over all candidates instead of a few."""
        model.eval()
        sums = torch.zeros(3, dtype=torch.float64)
        for made in batches:
            batch = made.to(self.device)
            if len(batch.items):
                sums += self._sum_batch(model, users_of(batch), items_of(batch)[:, None]).cpu()
        ndcg, loss, count = communicator.allreduce_sum(sums).tolist()
        count = max(count, 1.0)
        return {NDCG: ndcg / count, LOSS: loss / count}

    def _sum_batch(self, model: CollaborativeNetwork, users: Tensor, own: Tensor) -> Tensor:
        """Sums float64 [3] over pairs: NDCG, loss, pairs."""
        others = self._candidates.expand(len(own), -1)
        logits = model(users, torch.cat([own, others], dim=1)).double()
        wanted, drawn, real = logits[:, :1], logits[:, 1:], others != own
        ranks = 1 + (~(drawn < wanted) & real).sum(dim=1)  # NaN is never first
        ndcg = torch.where(ranks <= K, 1.0 / torch.log2(ranks.double() + 1.0), 0.0)
        negatives = (functional.softplus(drawn) * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)
        each = self.settings.negatives_per_positive
        losses = (functional.softplus(-wanted[:, 0]) + each * negatives) / (1 + each)
        return torch.stack([ndcg.sum(), losses.sum(), ndcg.new_tensor(float(len(own)))])
