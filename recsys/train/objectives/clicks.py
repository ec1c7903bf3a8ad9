"""Click ranking: whether an event that a user was shown became a click or more, or stayed a view.

At every target of a window the item was shown; it is a positive if its event is a click or
stronger. What the model says of it depends on the events before it alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recsys.errors import TrainingError
from recsys.models.click_ranker import CLICK, ClickRanker
from recsys.ranking import probabilities
from recsys.ranking.probabilities import UNCHANGED, Floats
from recsys.train.batch import Batch
from recsys.train.communication import Communicator
from recsys.train.feed import Feed
from recsys.train.job import TrainingJob
from recsys.train.objectives.contract import Objective, Wanted, no_loss
from recsys.train.objectives.next_item import next_events
from recsys.train.popularity import count_targets
from recsys.train.rows import Channels

AUC = "validation_auc"
LOG_LOSS = "validation_log_loss"
LOG_LOSS_OF_RATE = "validation_log_loss_of_rate"
CALIBRATION_ERROR = "validation_ece"
LOG_LOSS_CALIBRATED = "validation_log_loss_calibrated"
CALIBRATION_ERROR_CALIBRATED = "validation_ece_calibrated"

_HALVES = 2


class ClickRanking(Objective):
    """Binary cross-entropy of clicks, judged by the area under the ROC curve."""

    main_metric = AUC

    @staticmethod
    def channels(job: TrainingJob) -> Channels:
        recency = job.settings.train.recency_half_life_days is not None
        return Channels(hours=recency, event_types=True)

    def examine(self, feed: Feed, communicator: Communicator) -> None:
        """Both labels must occur.

        Raises:
            TrainingError: all events are views, or none is.
        """
        with feed.epoch(0) as batches:
            views, clicks = count_targets(batches, _labels_as_items, 1, communicator).tolist()
        if views and clicks:
            return
        lacking = "clicks" if views else "views without a click"
        raise TrainingError(
            f"a click ranker learns from views and clicks, and this log has no {lacking}",
            where=f"{self.job.table.name} version {self.job.table.version}",
            do="set ranker.enabled=false (or another model.kind), or ingest a log with views and "
            "what came of them",
        )

    def choose(self, batch: Batch) -> Wanted:
        labels, weights = _labels(batch)
        return Wanted(batch, labels.float(), weights, batch.positions)

    def popular(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        return batch.choose_targets(horizon=1)

    def sum_losses(self, model: ClickRanker, wanted: Wanted, drawn: None) -> Tensor:
        if not len(wanted.targets):
            return no_loss(model)
        logits = _logits(model, wanted.batch.to(self.device))
        labels = wanted.targets.to(self.device, non_blocking=True)
        weights = wanted.weights
        if weights is not None:
            weights = weights.to(self.device, non_blocking=True)
        return functional.binary_cross_entropy_with_logits(logits, labels, weights, reduction="sum")

    def validate(
        self, model: ClickRanker, batches: Iterable[Batch], communicator: Communicator
    ) -> dict[str, float]:
        """AUC, log-loss, the log-loss of the mere rate of clicks, and the calibration error.

        Every target counts once; see ``probabilities`` for the resolution (logits to 1/2048).
        """
        counts = self._count(model, batches, communicator).sum(axis=0)
        return {
            AUC: probabilities.auc(counts),
            LOG_LOSS: probabilities.log_loss((counts, UNCHANGED)),
            LOG_LOSS_OF_RATE: probabilities.log_loss_of_rate(counts),
            CALIBRATION_ERROR: probabilities.calibration_error((counts, UNCHANGED)),
        }

    def finish(
        self, model: ClickRanker, feed: Feed, communicator: Communicator
    ) -> dict[str, float]:
        """Calibrate the model on validation rows.

        The figures are of two halves of the rows, each calibrated on the other one; the model is
        calibrated on both.
        """
        with feed.validation() as batches:
            halves = self._count(model, batches, communicator)
        parts = [
            (half, probabilities.fit_platt(other))
            for half, other in zip(halves, halves[::-1], strict=True)
        ]
        platt = probabilities.fit_platt(halves.sum(axis=0))
        model.calibration.copy_(torch.tensor(platt))
        return {
            LOG_LOSS_CALIBRATED: probabilities.log_loss(*parts),
            CALIBRATION_ERROR_CALIBRATED: probabilities.calibration_error(*parts),
        }

    @torch.no_grad()
    def _count(
        self, model: ClickRanker, batches: Iterable[Batch], communicator: Communicator
    ) -> Floats:
        """Validation targets of all ranks by half (every other row), label and bin of logit."""
        model.eval()
        counts = np.zeros((_HALVES, 2, probabilities.BINS))
        for made in batches:
            if not len(made.positions):
                continue
            logits = _logits(model, made.to(self.device)).cpu().numpy()
            labels = _labels(made)[0].numpy()
            half = (made.positions // (made.items.shape[1] - 1) % _HALVES).numpy()
            for number in range(_HALVES):
                chosen = half == number
                counts[number] += probabilities.count_logits(logits[chosen], labels[chosen])
        summed: Floats = communicator.allreduce_sum(torch.from_numpy(counts)).numpy()
        return summed


def _labels(batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Whether each target was clicked, bool [targets], and their weights."""
    assert batch.event_types is not None, "channels asks for event types"
    clicked = next_events(batch.event_types, batch.positions) >= CLICK
    if batch.weights is None:
        return clicked, None
    return clicked, next_events(batch.weights, batch.positions)


def _labels_as_items(batch: Batch) -> tuple[Tensor, Tensor | None]:
    return _labels(batch)[0].long(), None


def _logits(model: ClickRanker, batch: Batch) -> Tensor:
    """Logits float [targets]."""
    logits: Tensor = model(batch.items, batch.event_types)
    return logits.flatten().index_select(0, batch.positions)
