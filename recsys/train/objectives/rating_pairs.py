"""Ratings: what models of users and items learn from pairs that have one."""

from __future__ import annotations

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
    """

    main_metric = RMSE
    higher_is_better = False

    @staticmethod
    def channels(job: TrainingJob) -> Channels:
        recency = job.settings.train.recency_half_life_days is not None
        return Channels(hours=recency, labels=True, user_idx=True)

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
        penalty = self.settings.factor_regularization * model.penalize(users, items)
        losses = errors.square() + penalty
        if wanted.weights is not None:
            losses = losses * wanted.weights.to(self.device, non_blocking=True)
        return losses.sum()

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
