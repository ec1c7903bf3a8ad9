"""Labels of what a user does next: whether the next event is a click, how its item is rated.

The state before an event and the event's item say the label: ``head.predict`` of their product,
which is the item's score. So items keep the order of their predictions in lists.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn import functional

from recsys.models import SequenceTransformer
from recsys.ranking import probabilities
from recsys.schemas import EVENT_TYPE_CODES
from recsys.train.batch import Batch
from recsys.train.communication import Communicator
from recsys.train.job import TrainingJob
from recsys.train.objectives.contract import Objective, Wanted, no_loss
from recsys.train.objectives.labels import choose_labelled, needed_channels
from recsys.train.objectives.next_item import next_events, read_states, touch_items
from recsys.train.rows import Channels

AUC, LOG_LOSS = "validation_auc", "validation_log_loss"
RMSE = "validation_rmse"

_CLICK = EVENT_TYPE_CODES["click"]
_MIDDLE_RATING = 3.0


class NextLabel(Objective):
    """Predicts a number of each event from what was before it and the event's item."""

    @abstractmethod
    def labels_of(self, batch: Batch, positions: Tensor) -> Tensor:
        """Labels of the events after ``positions``, float32 [positions]; NaN: there is none."""

    @abstractmethod
    def measure(self, predictions: Tensor, labels: Tensor) -> Tensor:
        """Losses float32 [targets]."""

    def touched_rows(self, ranks: int) -> int:
        return self.rows_of_windows(ranks, self.job.max_length + 1, beside=1)

    def popular(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """None: how often an item has a label says nothing about the label."""
        return batch.items[:0, 0], None

    def choose(self, batch: Batch) -> Wanted:
        labelled = choose_labelled(batch, self.settings.label_share, self.settings.seed)
        return self._take(batch, labelled)

    def sum_losses(self, model: SequenceTransformer, wanted: Wanted, drawn: None) -> Tensor:
        if not len(wanted.targets):
            return no_loss(model)
        predictions = self._predict(model, wanted.batch.to(self.device))
        losses = self.measure(predictions, wanted.targets.to(self.device, non_blocking=True))
        if wanted.weights is not None:
            losses = losses * wanted.weights.to(self.device, non_blocking=True)
        return losses.sum()

    @torch.no_grad()
    def add_up(
        self,
        model: SequenceTransformer,
        batches: Iterable[Batch],
        communicator: Communicator,
        figures_of: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Sum of figures of (predictions, labels) over all ranks' validation events.

        Args:
            figures_of: float64 of one shape, for no events too.
        """
        model.eval()
        nothing = torch.zeros(0)
        total = figures_of(nothing, nothing)
        for made in batches:
            wanted = self._take(made, made.positions)
            if len(wanted.targets):
                predictions = self._predict(model, wanted.batch.to(self.device)).cpu()
                total += figures_of(predictions, wanted.targets)
        return communicator.allreduce_sum(total)

    def _take(self, batch: Batch, positions: Tensor) -> Wanted:
        labels = self.labels_of(batch, positions)
        known = ~labels.isnan()
        places, weights = positions[known], None
        if batch.weights is not None:
            weights = next_events(batch.weights, places)
        return Wanted(batch.at(places), labels[known], weights)

    def _predict(self, model: SequenceTransformer, batch: Batch) -> Tensor:
        """Predictions float32 [positions]."""
        assert model.head is not None, "settings ask for a head with this task"
        items, vectors = touch_items(model, batch.items)
        hidden = read_states(model, batch, items, vectors, batch.positions)
        own = functional.embedding(next_events(items, batch.positions), vectors)
        return model.head.predict((hidden.float() * own.float()).sum(dim=1))


class Click(NextLabel):
    """Whether a user who meets an item does more than view it: binary cross-entropy."""

    main_metric = AUC

    @staticmethod
    def channels(job: TrainingJob) -> Channels:
        return needed_channels(job, event_types=True)

    def labels_of(self, batch: Batch, positions: Tensor) -> Tensor:
        """1 for a click or anything stronger, 0 for a view alone."""
        assert batch.event_types is not None, "the feed was asked for event types"
        return (next_events(batch.event_types, positions) >= _CLICK).float()

    def measure(self, predictions: Tensor, labels: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(predictions, labels, reduction="none")

    def validate(
        self, model: SequenceTransformer, batches: Iterable[Batch], communicator: Communicator
    ) -> dict[str, float]:
        """Area under the ROC curve, and mean of -log of the label's probability.

        See ``probabilities`` for the resolution (logits to 1/2048).
        """
        counts = self.add_up(model, batches, communicator, _count).numpy()
        return {
            AUC: probabilities.auc(counts),
            LOG_LOSS: probabilities.log_loss((counts, probabilities.UNCHANGED)),
        }


def _count(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.from_numpy(probabilities.count_logits(logits.numpy(), (labels > 0).numpy()))


class Rating(NextLabel):
    """The rating of the item of an event: squared error, around the middle of 1 to 5."""

    main_metric = RMSE
    higher_is_better = False

    @staticmethod
    def channels(job: TrainingJob) -> Channels:
        return needed_channels(job, labels=True)

    def labels_of(self, batch: Batch, positions: Tensor) -> Tensor:
        assert batch.labels is not None, "the feed was asked for labels"
        return next_events(batch.labels, positions)

    def measure(self, predictions: Tensor, labels: Tensor) -> Tensor:
        return (_MIDDLE_RATING + predictions - labels).square()

    def validate(
        self, model: SequenceTransformer, batches: Iterable[Batch], communicator: Communicator
    ) -> dict[str, float]:
        """Root mean squared error, in stars."""
        squares, count = self.add_up(model, batches, communicator, self._add_squares).tolist()
        return {RMSE: math.sqrt(squares / count) if count else math.nan}

    def _add_squares(self, predictions: Tensor, labels: Tensor) -> Tensor:
        squares = self.measure(predictions.double(), labels.double())
        return torch.stack([squares.sum(), squares.new_tensor(float(len(squares)))])
