"""Next-item prediction: what the sequence models of a night learn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

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
from recsys.schemas import USER_LINKS
from recsys.train.batch import Batch
from recsys.train.communication import Communicator
from recsys.train.job import TrainingJob
from recsys.train.objectives import next_item_ranks as ranks
from recsys.train.objectives.contract import Objective, Wanted, no_loss
from recsys.train.optimization import step_seed
from recsys.train.rows import Channels

ReadStates = Callable[[SequenceTransformer, Batch, Tensor, Tensor, Tensor], Tensor]
"""States float [places, dims] from a model, a batch, its items as rows of vectors [rows, length],
the vectors, and flat places in [rows, length - 1]."""


class NextItem(Objective):
    """The next item among all items, or among sampled ones, by the loss that the settings name."""

    main_metric = ranks.NDCG
    together = False
    """Whether every rank has to take part in every loss, also without targets."""

    def __init__(self, job: TrainingJob, device: torch.device) -> None:
        super().__init__(job, device)
        self._num_items = job.num_items
        self.kind = choose_loss(self.settings, job.num_items)
        samples = self.kind != "softmax"
        self._sampler = NegativeSampler(torch.zeros(job.num_items + 1), 0.0) if samples else None
        self.needs_popularity = samples and self.settings.negative_popularity > 0

    @staticmethod
    def channels(job: TrainingJob) -> Channels:
        model = job.settings.model
        recency = job.settings.train.recency_half_life_days is not None
        return Channels(
            hours=recency or model.time_gaps,
            event_types=model.event_types,
            user_idx=USER_LINKS in job.links,
        )

    def set_popularity(self, counts: Tensor) -> None:
        """Draw negatives by these counts of targets from now on (``negative_popularity``)."""
        if self._sampler is not None:
            self._sampler = NegativeSampler(counts, self.settings.negative_popularity)

    def touched_rows(self, ranks: int) -> int | None:
        if self._sampler is None:
            return None
        beside = self.settings.negatives + 1  # and padding
        return self.rows_of_windows(ranks, self.job.max_length + 1, beside)

    def popular(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        wanted = self._choose(batch, horizon=1)
        return wanted.targets, wanted.weights

    def choose(self, batch: Batch) -> Wanted:
        return self._choose(batch, self.settings.target_horizon)

    def _choose(self, batch: Batch, horizon: int) -> Wanted:
        targets, weights = batch.choose_targets(horizon)
        if not self.settings.exclude_own_items:
            return Wanted(batch, targets, weights)
        new = ranks.find_new(batch, targets)
        weights = None if weights is None else weights[new]
        return Wanted(replace(batch, positions=batch.positions[new]), targets[new], weights)

    def draw(self, global_step: int) -> Negatives | None:
        """Negatives of one step, as one rank with all ranks' batches would draw them."""
        if self._sampler is None:
            return None
        seed = step_seed(self.settings.seed, global_step, rank=-1)
        draw = torch.Generator().manual_seed(seed)
        return self._sampler.draw(self.settings.negatives, draw).to(self.device)

    def validate(
        self, model: SequenceTransformer, batches: Iterable[Batch], communicator: Communicator
    ) -> dict[str, float]:
        exclude = self.settings.exclude_own_items
        find_targets = ranks.new_items if exclude else ranks.next_items
        return ranks.validate(model, batches, communicator, self.device, exclude, find_targets)

    def sum_losses(
        self, model: SequenceTransformer, wanted: Wanted, drawn: Negatives | None
    ) -> Tensor:
        return self.sum_over_items(model, wanted, drawn, read_states)

    def sum_over_items(
        self, model: SequenceTransformer, wanted: Wanted, drawn: Negatives | None, read: ReadStates
    ) -> Tensor:
        """The loss of the settings, of what ``read`` makes of the batch at each target's place."""
        if not len(wanted.targets) and not self.together:
            return no_loss(model)
        batch = wanted.batch.to(self.device)
        places = batch.positions if wanted.places is None else wanted.places.to(self.device)
        targets = wanted.targets.to(self.device, non_blocking=True)
        weights = wanted.weights
        if weights is not None:
            weights = weights.to(self.device, non_blocking=True)
        if drawn is not None:
            return self._sum_sampled(model, batch, places, targets, weights, drawn, read)
        return self.sum_full(model, batch, places, targets, weights, read)

    def sum_full(
        self,
        model: SequenceTransformer,
        batch: Batch,
        places: Tensor,
        targets: Tensor,
        weights: Tensor | None,
        read: ReadStates,
    ) -> Tensor:
        """The loss over all items, by what ``read`` makes of the batch at ``places``."""
        vectors = model.item_vectors()
        hidden = read(model, batch, batch.items, vectors, places)
        return full_softmax_loss(
            hidden, vectors, targets, weights, self._find_excluded(batch.items, places)
        )

    def _sum_sampled(
        self,
        model: SequenceTransformer,
        batch: Batch,
        places: Tensor,
        targets: Tensor,
        weights: Tensor | None,
        negatives: Negatives,
        read: ReadStates,
    ) -> Tensor:
        """Only the vectors of items that this step touches are made."""
        touched = torch.cat([batch.items.flatten(), negatives.items, targets.new_zeros(1)])
        used, rows = touched.unique(return_inverse=True)
        vectors = model.item_vectors(used)
        items = rows[: batch.items.numel()].view_as(batch.items)
        negatives = negatives._replace(items=rows[batch.items.numel() : -1])
        targets = torch.searchsorted(used, targets)
        hidden = read(model, batch, items, vectors, places)
        excluded = self._find_excluded(items, places)
        if self.kind == "gbce":
            share = min(1.0, len(negatives.items) / max(1, self._num_items - 1))
            power = calibrate(share, self.settings.gbce_calibration)
            return sampled_binary_loss(
                hidden, vectors, targets, negatives, weights, excluded, power
            )
        return sampled_softmax_loss(hidden, vectors, targets, negatives, weights, excluded)

    def _find_excluded(self, items: Tensor, places: Tensor) -> Excluded | None:
        if not self.settings.exclude_own_items:
            return None
        return Excluded(items, places // (items.shape[1] - 1))


def read_states(
    model: SequenceTransformer, batch: Batch, items: Tensor, vectors: Tensor, places: Tensor
) -> Tensor:
    """Hidden states float [places, dims] after the events at ``places``."""
    hidden: Tensor = model(items[:, :-1], vectors, **batch.inputs(model.config.looks_at))
    return hidden.flatten(0, 1).index_select(0, places)


def touch_items(model: SequenceTransformer, items: Tensor) -> tuple[Tensor, Tensor]:
    """Items as rows of the vectors that they need, shaped alike, and these float [rows, dims].

    Row 0 is padding whether there is some or not.
    """
    used, rows = torch.cat([items.flatten(), items.new_zeros(1)]).unique(return_inverse=True)
    return rows[:-1].view_as(items), model.item_vectors(used)


def next_events(values: Tensor, places: Tensor) -> Tensor:
    """``values`` [rows, length] of the events after ``places`` (flat in [rows, length - 1])."""
    return values[:, 1:].flatten().index_select(0, places)


def choose_loss(settings: Train, num_items: int) -> str:
    """``auto`` is the full softmax, for large catalogues the sampled one."""
    if settings.loss != "auto":
        return settings.loss
    large = num_items > settings.sampled_softmax_above_items
    return "sampled_softmax" if large else "softmax"
