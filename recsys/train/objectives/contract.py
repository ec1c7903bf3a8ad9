"""What a training minimises and is judged by: what every objective promises to the loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recsys.models.sparse_tables import common_weights
from recsys.train.batch import Batch
from recsys.train.communication import Communicator
from recsys.train.feed import Feed
from recsys.train.job import TrainingJob
from recsys.train.rows import Channels


@dataclass(frozen=True)
class Wanted:
    """One batch with the targets chosen for this step, still on the CPU.

    Attributes:
        batch: the rows.
        targets: [targets], what the model is to predict; item_idx (int64) or labels (float32).
        weights: float32 [targets]; None: all the same.
        places: int64 [targets], where in the batch they are; None: where the batch says.
    """

    batch: Batch
    targets: Tensor
    weights: Tensor | None
    places: Tensor | None = None

    @property
    def weight(self) -> float:
        """Sum of the weights, in float64."""
        if self.weights is None:
            return float(len(self.targets))
        return float(self.weights.double().sum())


class Objective(ABC):
    """Chooses targets, measures the loss of a step, and says how good an epoch's model is.

    Attributes:
        main_metric: of ``validate``, by which the best epoch is chosen.
        higher_is_better: of that metric.
        needs_popularity: whether ``set_popularity`` is to be called when a training goes on, too.
    """

    main_metric: ClassVar[str]
    higher_is_better: ClassVar[bool] = True
    needs_popularity: bool = False

    def __init__(self, job: TrainingJob, device: torch.device) -> None:
        self.job, self.device = job, device
        self.settings = job.settings.train

    @staticmethod
    @abstractmethod
    def channels(job: TrainingJob) -> Channels:
        """What the rows of the feed must hold."""

    @abstractmethod
    def choose(self, batch: Batch) -> Wanted:
        """The targets of a batch, drawn with torch's global generator."""

    @abstractmethod
    def sum_losses(self, model: Any, wanted: Wanted, drawn: Any) -> Tensor:
        """Weighted sum over this rank's targets, with gradients of every weight of the model.

        Args:
            model: in training mode, on ``device``.
            wanted: of ``choose``; may be empty (see ``no_loss``).
            drawn: of ``draw`` for this step.
        """

    @abstractmethod
    def validate(
        self, model: Any, batches: Iterable[Batch], communicator: Communicator
    ) -> dict[str, float]:
        """Figures by name over all ranks' validation batches, the same on every rank."""

    @abstractmethod
    def popular(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Items that count as popular, int64 [targets], and their weights (None: all the same)."""

    def touched_rows(self, ranks: int) -> int | None:
        """Rows of a table of users or items that a step touches at most; None: all of them."""
        return None

    def rows_of_windows(self, ranks: int, each: int, beside: int = 0) -> int:
        """Rows that a step's windows touch at most, those of accumulated batches together.

        Args:
            each: rows that one window touches.
            beside: rows that a step touches besides.
        """
        train, model = self.settings, self.job.settings.model
        windows = ranks * train.gradient_accumulation * train.per_rank_batch_size
        around = model.neighbors if model.neighbor_weight > 0 else 0
        return (windows * each + beside) * (1 + around)

    def examine(self, feed: Feed, communicator: Communicator) -> None:  # noqa: B027 (few need it)
        """Look at the data before the first step, on all ranks.

        Raises:
            TrainingError: nothing can be learned from it.
        """

    def finish(self, model: Any, feed: Feed, communicator: Communicator) -> dict[str, float]:
        """Complete the best model before it is kept, alike on all ranks.

        Returns:
            Figures by name, beside those of ``validate``.
        """
        return {}

    def draw(self, global_step: int) -> Any:
        """What a step draws that all ranks must draw alike, e.g. negatives."""
        return None

    def set_popularity(self, counts: Tensor) -> None:  # noqa: B027 (few need it)
        """Told before the first step how often each item is a target, float [num_items + 1]."""

    def remember(self, model: Any) -> None:  # noqa: B027 (few need it)
        """Told the weights that a training starts with, on ``device``, before its first step."""

    def is_better(self, new: float, old: float) -> bool:
        """Compares two values of ``main_metric``."""
        return new > old if self.higher_is_better else new < old


def no_loss(model: nn.Module) -> Tensor:
    """Zero with dense gradients: Horovod waits for one of every weight from every rank."""
    return torch.stack([weight.sum() * 0.0 for weight in common_weights(model).values()]).sum()
