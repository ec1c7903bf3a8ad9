"""Ratings: what models of users and items learn from pairs that have one."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import torch
from torch import Tensor

from recsys.models import MatrixFactorization
from recsys.train.batch import Batch
from recsys.train.communication import Communicator
from recsys.train.job import TrainingJob
from recsys.train.objectives.contract import Objective, Wanted, no_loss
from recsys.train.objectives.pairs import items_of, users_of, weights_of
from recsys.train.rows import Channels

RMSE = "validation_rmse"
MAE = "validation_mae"
LOWEST, HIGHEST = 1.0, 5.0


class RatingPairs(Objective):
    """Squared error of the rating, and a penalty on the rows that a rating touches.

    Source: Koren, Bell and Volinsky 2009, "Matrix Factorization Techniques for Recommender
    Systems", equation 5; the penalty's factor is ``train.factor_regularization``. It is paid once
    a rating, so that what is rated often may say more, and rows that nothing touches stay.

    Online (``train.online``) the penalty of rows that are known is on their distance from where
    they were (L2-SP: Li, Grandvalet and Davoine 2018, "Explicit Inductive Bias for Transfer
    Learning", equation 2; here a rating, as above), with the factor ``train.online_pull``. The
    overall mean stays. New rows are learned as ever.
    """

    _start: MatrixFactorization | None = None

    main_metric = RMSE
    higher_is_better = False

    @staticmethod
    def channels(job: TrainingJob) -> Channels:
        recency = job.settings.train.recency_half_life_days is not None
        return Channels(hours=recency, labels=True, user_idx=True)

    def touched_rows(self, ranks: int) -> int:
        return self.rows_of_windows(ranks, 1)

    def popular(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        return items_of(batch), weights_of(batch)

    def choose(self, batch: Batch) -> Wanted:
        return Wanted(batch, _ratings_of(batch), weights_of(batch))

    def sum_losses(self, model: MatrixFactorization, wanted: Wanted, drawn: None) -> Tensor:
        if not len(wanted.targets):
            return no_loss(model)
        batch = wanted.batch.to(self.device)
        users, items = users_of(batch), items_of(batch)
        errors = model(users, items) - wanted.targets.to(self.device, non_blocking=True)
        losses = errors.square() + self._penalize(model, users, items)
        if wanted.weights is not None:
            losses = losses * wanted.weights.to(self.device, non_blocking=True)
        return losses.sum()

    def remember(self, model: MatrixFactorization) -> None:
        if self.job.online:
            self._start = copy.deepcopy(model).eval().requires_grad_(False)
            model.mean.requires_grad_(False)

    def _penalize(self, model: MatrixFactorization, users: Tensor, items: Tensor) -> Tensor:
        if self._start is None:
            return self.settings.factor_regularization * model.penalize(users, items)
        own, former = model.rows_of(users, items), self._start.rows_of(users, items)
        known = (self._start.knows({"user_idx": users}), self._start.knows_items(items))
        parts = [
            torch.where(
                learned,
                self.settings.online_pull * (now - before).square().sum(dim=1),
                self.settings.factor_regularization * now.square().sum(dim=1),
            )
            for now, before, learned in zip(own, former, known, strict=True)
        ]
        return parts[0] + parts[1]

    @torch.no_grad()
    def validate(
        self, model: MatrixFactorization, batches: Iterable[Batch], communicator: Communicator
    ) -> dict[str, float]:
        """Root mean square and mean absolute error, every pair alike.

        Ratings are clipped to the scale, here alone: a rating above 5 is 5 to whoever reads it,
        while training needs the gradient.
        """
        model.eval()
        sums = torch.zeros(3, dtype=torch.float64)
        for made in batches:
            batch = made.to(self.device)
            rating = model(users_of(batch), items_of(batch)).clamp(LOWEST, HIGHEST)
            errors = (rating - _ratings_of(batch)).double()
            count = errors.new_tensor(float(len(errors)))
            sums += torch.stack([errors.square().sum(), errors.abs().sum(), count]).cpu()
        squares, absolutes, count = communicator.allreduce_sum(sums).tolist()
        count = max(count, 1.0)
        return {RMSE: math.sqrt(squares / count), MAE: absolutes / count}


def _ratings_of(batch: Batch) -> Tensor:
    assert batch.labels is not None, "the feed was asked for labels"
    return batch.labels[:, -1]
