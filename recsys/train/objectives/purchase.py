"""Fine-tuning of the sequence transformer on what users buy next."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from recsys.models import SequenceTransformer
from recsys.models.sampled_losses import Negatives
from recsys.schemas import EVENT_TYPE_CODES
from recsys.train.batch import Batch
from recsys.train.communication import Communicator
from recsys.train.job import TrainingJob
from recsys.train.objectives import next_item_ranks as ranks
from recsys.train.objectives.contract import Wanted, no_loss
from recsys.train.objectives.labels import choose_labelled, needed_channels
from recsys.train.objectives.next_item import NextItem, next_events
from recsys.train.rows import Channels

_PURCHASE = EVENT_TYPE_CODES["purchase"]


class Purchase(NextItem):
    """The next item that the user buys, now or later in the window, among all items.

    A position's target is the first event after it that ended with a purchase. (Of events of one
    item in a row the last says what they are: a purchase that was rated at once is a rating.)
    """

    main_metric = ranks.NDCG

    @staticmethod
    def channels(job: TrainingJob) -> Channels:
        return needed_channels(job, event_types=True)

    def choose(self, batch: Batch) -> Wanted:
        labelled = choose_labelled(batch, self.settings.label_share, self.settings.seed)
        return Wanted(*_take_purchases(batch, labelled))

    def popular(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        wanted = self.choose(batch)
        return wanted.targets, wanted.weights

    def sum_losses(
        self, model: SequenceTransformer, wanted: Wanted, drawn: Negatives | None
    ) -> Tensor:
        total = super().sum_losses(model, wanted, drawn)
        # The scale and offset of the head are for other labels.
        return total if model.head is None else total + no_loss(model.head)

    def validate(
        self, model: SequenceTransformer, batches: Iterable[Batch], communicator: Communicator
    ) -> dict[str, float]:
        """NDCG@10, hit rate@10 and loss of purchases, as ``next_item_ranks.validate``."""
        return ranks.validate(
            model,
            batches,
            communicator,
            self.device,
            self.settings.exclude_own_items,
            lambda batch: _take_purchases(batch, batch.positions)[:2],
        )


def _take_purchases(batch: Batch, positions: Tensor) -> tuple[Batch, Tensor, Tensor | None]:
    """The batch at those of ``positions`` that have a purchase ahead, the items bought, weights."""
    places, chosen = find_purchases(batch, positions)
    targets = batch.items.flatten().index_select(0, chosen)
    weights = batch.weights
    if weights is not None:
        weights = weights.flatten().index_select(0, chosen)
    return batch.at(places), targets, weights


def find_purchases(batch: Batch, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Positions with a purchase ahead in their window, and where the first such purchase is.

    Returns:
        positions int64 [targets], and flat indices into [rows, length], int64 [targets].
    """
    assert batch.event_types is not None, "the feed was asked for event types"
    length = batch.items.shape[1]
    column = torch.arange(length, device=batch.items.device)
    bought = torch.where(batch.event_types == _PURCHASE, column, length)
    first = bought.flip(1).cummin(dim=1).values.flip(1)
    row = positions // max(1, length - 1)
    ahead = next_events(first, positions)
    found = ahead < length
    return positions[found], (row * length + ahead)[found]
