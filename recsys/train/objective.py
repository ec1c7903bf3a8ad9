"""What a training minimises: from batches to a sum of losses, as the settings say."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recsys.config import Train
from recsys.models import SequenceTransformer
from recsys.models.losses import Excluded, full_softmax_loss
from recsys.models.sampled_losses import (
    Negatives,
    NegativeSampler,
    calibrate,
    sampled_binary_loss,
    sampled_softmax_loss,
)
from recsys.train.batch import Batch
from recsys.train.optimization import step_seed


@dataclass(frozen=True)
class Wanted:
    """One batch with the targets chosen for this step, still on the CPU.

    Attributes:
        batch: the windows.
        targets: int64 [targets].
        weights: float32 [targets]; None: all the same.
    """

    batch: Batch
    targets: Tensor
    weights: Tensor | None

    @property
    def weight(self) -> float:
        """Sum of the weights, in float64."""
        if self.weights is None:
            return float(len(self.targets))
        return float(self.weights.double().sum())


class Objective:
    """Chooses targets and measures the loss of a step.

    Args:
        settings: of the training.
        num_items: largest item_idx.
        device: where the model is.
    """

    def __init__(self, settings: Train, num_items: int, device: torch.device) -> None:
        self._settings, self._num_items, self._device = settings, num_items, device
        self.kind = choose_loss(settings, num_items)
        self._sampler = NegativeSampler(torch.zeros(num_items + 1), 0.0) if self.samples else None

    @property
    def samples(self) -> bool:
        """Whether the loss is on sampled negatives."""
        return self.kind != "softmax"

    def set_popularity(self, counts: Tensor) -> None:
        """Draw negatives by these counts of targets from now on (``negative_popularity``)."""
        if self.samples:
            self._sampler = NegativeSampler(counts, self._settings.negative_popularity)

    def choose(self, batch: Batch) -> Wanted:
        """The targets of a batch, drawn with torch's global generator."""
        return Wanted(batch, *batch.choose_targets(self._settings.target_horizon))

    def draw_negatives(self, global_step: int) -> Negatives | None:
        """Of one step; the same on all ranks, as one rank with all their batches would draw."""
        if self._sampler is None:
            return None
        seed = step_seed(self._settings.seed, global_step, rank=-1)
        draw = torch.Generator().manual_seed(seed)
        return self._sampler.draw(self._settings.negatives, draw).to(self._device)

    def sum_losses(
        self, model: SequenceTransformer, wanted: Wanted, negatives: Negatives | None
    ) -> Tensor:
        """Weighted sum over this rank's targets; zero, but with gradients, for an empty batch."""
        if not len(wanted.targets):
            # Horovod waits for a gradient of every weight from every rank.
            return torch.stack([weight.sum() * 0.0 for weight in model.parameters()]).sum()
        batch = wanted.batch.to(self._device)
        targets = wanted.targets.to(self._device, non_blocking=True)
        weights = wanted.weights
        if weights is not None:
            weights = weights.to(self._device, non_blocking=True)
        if negatives is not None:
            return self._sum_sampled(model, batch, targets, weights, negatives)
        vectors = model.item_vectors()
        hidden = _states(model, batch, batch.items, vectors)
        return full_softmax_loss(
            hidden, vectors, targets, weights, self._find_excluded(batch, batch.items)
        )

    def _sum_sampled(
        self,
        model: SequenceTransformer,
        batch: Batch,
        targets: Tensor,
        weights: Tensor | None,
        negatives: Negatives,
    ) -> Tensor:
        """Only the vectors of items that this step touches are made."""
        touched = torch.cat([batch.items.flatten(), negatives.items, targets.new_zeros(1)])
        used, places = touched.unique(return_inverse=True)
        vectors = model.item_vectors(used)
        items = places[: batch.items.numel()].view_as(batch.items)
        negatives = negatives._replace(items=places[batch.items.numel() : -1])
        targets = torch.searchsorted(used, targets)
        hidden = _states(model, batch, items, vectors)
        excluded = self._find_excluded(batch, items)
        if self.kind == "gbce":
            share = min(1.0, len(negatives.items) / max(1, self._num_items - 1))
            power = calibrate(share, self._settings.gbce_calibration)
            return sampled_binary_loss(
                hidden, vectors, targets, negatives, weights, excluded, power
            )
        return sampled_softmax_loss(hidden, vectors, targets, negatives, weights, excluded)

    def _find_excluded(self, batch: Batch, items: Tensor) -> Excluded | None:
        if not self._settings.exclude_own_items:
            return None
        return Excluded(items, batch.positions // (items.shape[1] - 1))


def _states(model: SequenceTransformer, batch: Batch, items: Tensor, vectors: Tensor) -> Tensor:
    """Hidden states float [positions, dims] at the positions that have a target."""
    hidden: Tensor = model(items[:, :-1], vectors, **batch.inputs())
    return hidden.flatten(0, 1).index_select(0, batch.positions)


def choose_loss(settings: Train, num_items: int) -> str:
    """``auto`` is the full softmax, for large catalogues the sampled one."""
    if settings.loss != "auto":
        return settings.loss
    large = num_items > settings.sampled_softmax_above_items
    return "sampled_softmax" if large else "softmax"
