"""Pre-training: next-item prediction with self-supervised terms beside it.

Each term is weighed by ``train.pretraining`` and scaled as next-item prediction is, so that "sum of
losses over ranks / weight of all ranks' targets" stays what a step minimises however the batches
are spread: masked items stand for all targets, of which they are a share; a window counts in the
contrast as much as its targets do; attributes are those of the targets.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recsys.models import SequenceTransformer
from recsys.models.sampled_losses import Negatives
from recsys.models.self_supervision import View, attribute_loss, contrastive_loss, draw_view
from recsys.train.batch import Batch
from recsys.train.objectives.contract import Wanted, no_loss
from recsys.train.objectives.next_item import NextItem, next_events, read_states, touch_items


@dataclass(frozen=True)
class PretrainingWanted(Wanted):
    """With what is drawn for the other terms, still on the CPU.

    Attributes:
        masked: indices of the targets that are hidden as well, int64 [masked]; None: none.
        views: two views of every window; None: no contrast.
    """

    masked: Tensor | None = None
    views: tuple[View, View] | None = None


class Pretraining(NextItem):
    """Next item, masked items, contrast of two views, attributes of the next item."""

    def choose(self, batch: Batch) -> PretrainingWanted:
        terms, wanted = self.settings.pretraining, super().choose(batch)
        batch = wanted.batch
        masked = views = None
        if terms.masked_weight > 0:
            masked = (torch.rand(len(batch.positions)) < terms.masked_share).nonzero()[:, 0]
        if terms.contrastive_weight > 0:
            shares = terms.crop_share, terms.view_mask_share, terms.reorder_share
            views = draw_view(batch.items, *shares), draw_view(batch.items, *shares)
        return PretrainingWanted(batch, wanted.targets, wanted.weights, None, masked, views)

    def sum_losses(
        self, model: SequenceTransformer, wanted: Wanted, drawn: Negatives | None
    ) -> Tensor:
        assert isinstance(wanted, PretrainingWanted), "choose makes these"
        if not len(wanted.targets):
            return no_loss(model)
        wanted = dataclasses.replace(wanted, batch=wanted.batch.to(self.device))
        terms = self.settings.pretraining
        states: list[Tensor] = []

        def read(*given: Any) -> Tensor:
            states.append(read_states(*given))
            return states[0]

        total = self.sum_over_items(model, wanted, drawn, read) + _no_loss_of_parts(model)
        if wanted.masked is not None and len(wanted.masked):
            total = total + terms.masked_weight * self._sum_masked(model, wanted, drawn)
        if wanted.views is not None:
            total = total + terms.contrastive_weight * self._sum_contrasts(model, wanted)
        if terms.attribute_weight > 0 and model.attribute_output is not None:
            total = total + terms.attribute_weight * self._sum_attributes(model, wanted, states[0])
        return total

    def _sum_masked(
        self, model: SequenceTransformer, wanted: PretrainingWanted, drawn: Negatives | None
    ) -> Tensor:
        """Next items that are hidden from a pass in which every state sees all other items.

        The weights are those of the causal pass, and a hidden item is read from the state before
        it, so both passes ask the same of a state. (In a causal pass a hidden item would be
        predicted from earlier ones alone: next-item prediction with noise.) The sum is divided by
        the share of items that is hidden, and so expected to be that over all targets.

        Source: Sun et al. 2019, "BERT4Rec", section 3.6; Zhou et al. 2020, "S3-Rec", section 4.2
        (MIP); BehnamGhader et al. 2024, "LLM2Vec", section 2 (masked next token prediction), for
        the state before.
        """
        batch, masked = wanted.batch, wanted.masked
        assert masked is not None, "asked for where there are some"
        places = batch.positions.index_select(0, masked.to(self.device))
        targets = next_events(batch.items, places)
        weights = None if batch.weights is None else next_events(batch.weights, places)
        hidden_items = Wanted(batch, targets, weights, places)
        total = self.sum_over_items(model, hidden_items, drawn, read_around)
        return total / self.settings.pretraining.masked_share

    def _sum_contrasts(self, model: SequenceTransformer, wanted: PretrainingWanted) -> Tensor:
        """InfoNCE of users' states after two views of their windows.

        Negatives are the other windows of the batch: on several ranks those of the rank's own
        batch, as if gradients were accumulated over smaller batches. A window weighs as much as
        its targets in sum.
        """
        batch, views = wanted.batch, wanted.views
        assert views is not None, "asked for where there are some"
        users = [_read_view(model, batch, view.to(self.device)) for view in views]
        temperature = self.settings.pretraining.temperature
        return contrastive_loss(users[0], users[1], temperature, window_weights(batch))

    def _sum_attributes(
        self, model: SequenceTransformer, wanted: PretrainingWanted, hidden: Tensor
    ) -> Tensor:
        """Attributes of the NEXT item, from the state before it.

        S3-Rec predicts those of an item from its own vector; here that vector may be made of its
        attributes, which would leave nothing to learn.
        """
        assert model.attribute_output is not None, "asked for where there is one"
        batch = wanted.batch
        items = next_events(batch.items, batch.positions)
        columns, offsets, _ = model.item_embedding.links_of("attribute", items)
        weights = None if batch.weights is None else next_events(batch.weights, batch.positions)
        return attribute_loss(model.attribute_output, hidden, offsets, columns, weights)


def window_weights(batch: Batch) -> Tensor:
    """Sum of the weights of each window's targets, float32 [rows]."""
    if batch.weights is None:
        worth = torch.ones_like(batch.positions, dtype=torch.float32)
    else:
        worth = next_events(batch.weights, batch.positions)
    rows = batch.positions // max(1, batch.items.shape[1] - 1)
    return worth.new_zeros(len(batch.items)).index_add_(0, rows, worth)


def _no_loss_of_parts(model: SequenceTransformer) -> Tensor:
    """Weights that no term uses in this step need gradients too (see ``no_loss``)."""
    output = model.attribute_output
    parts = [model.mask_vector, *(() if output is None else output.parameters())]
    zeros = [part.sum() * 0.0 for part in parts if part is not None]
    return torch.stack(zeros).sum() if zeros else torch.zeros(())


def read_around(
    model: SequenceTransformer, batch: Batch, items: Tensor, vectors: Tensor, places: Tensor
) -> Tensor:
    """States float [places, dims] that see their window's inputs but those after ``places``."""
    rows, width = len(items), items.shape[1] - 1
    masked = torch.zeros(rows, width + 1, dtype=torch.bool, device=items.device)
    masked[places // width, places % width + 1] = True
    masked = masked[:, :-1]  # the last event is no input
    vectors, items = _with_mask(model, vectors, items[:, :-1], masked)
    given = batch.inputs(model.config.looks_at)
    if "event_types" in given:
        given["event_types"] = given["event_types"].masked_fill(masked, 0)
    hidden: Tensor = model(items, vectors, **given, causal=False)
    return hidden.flatten(0, 1).index_select(0, places)


def _read_view(model: SequenceTransformer, batch: Batch, view: View) -> Tensor:
    """States of users after a view of their windows, without the bias, float [rows, dims - 1]."""
    items, vectors = touch_items(model, batch.items)
    vectors, items = _with_mask(model, vectors, view.of(items), view.masked)
    hours, types = (
        None if part is None else view.of(part) for part in (batch.hours, batch.event_types)
    )
    if hours is not None:  # what is in another order still happened one after the other
        hours = hours.sort(dim=1).values
    if types is not None:
        types = types.masked_fill(view.masked, 0)
    return model.encode(items, vectors, hours, types)[:, 1:]


def _with_mask(
    model: SequenceTransformer, vectors: Tensor, items: Tensor, masked: Tensor
) -> tuple[Tensor, Tensor]:
    """Vectors with that of a masked item behind them, and items (rows of them) that point to it."""
    assert model.mask_vector is not None, "made for a task that masks"
    more = torch.cat([vectors, model.mask_vector[None].to(vectors.dtype)])
    return more, items.masked_fill(masked, len(vectors))
