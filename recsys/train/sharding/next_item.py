"""Next-item prediction where the item table is split over ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from recsys.models import SequenceTransformer
from recsys.train.batch import Batch
from recsys.train.communication import Communicator
from recsys.train.objectives import next_item_ranks as ranks
from recsys.train.objectives.next_item import NextItem, ReadStates, touch_items
from recsys.train.sharding.softmax import rank_targets, sharded_softmax_loss
from recsys.train.sharding.table import ShardedItemTable


class ShardedNextItem(NextItem):
    """The same losses; every rank takes part in every step, whether it has targets or not."""

    together = True

    def sum_full(
        self,
        model: SequenceTransformer,
        batch: Batch,
        places: Tensor,
        targets: Tensor,
        weights: Tensor | None,
        read: ReadStates,
    ) -> Tensor:
        items, vectors = touch_items(model, batch.items)
        hidden, table = read(model, batch, items, vectors, places), _table_of(model)
        return sharded_softmax_loss(hidden, table.weight, targets, weights, table.owners)

    @torch.no_grad()
    def validate(
        self, model: SequenceTransformer, batches: Iterable[Batch], communicator: Communicator
    ) -> dict[str, float]:
        """As ``next_item_ranks.validate``; a rank whose batches have ended helps the others."""
        model.eval()
        table, sums = _table_of(model), torch.zeros(4, dtype=torch.float64)
        for batch in _until_all_end(batches, communicator):
            if batch is None:
                hidden = table.weight.new_zeros(0, table.weight.shape[1])
                targets = torch.zeros(0, dtype=torch.int64, device=self.device)
                touch_items(model, targets)
            else:
                batch, targets = ranks.next_items(batch.to(self.device))
                items, vectors = touch_items(model, batch.items)
                given = batch.inputs(model.config.looks_at)
                hidden = model(items[:, :-1], vectors, **given).flatten(0, 1)
                hidden = hidden.index_select(0, batch.positions)
            found = rank_targets(table.owners, table.weight, hidden, targets)
            sums += ranks.sum_figures(*found).cpu()
        return ranks.average_figures(sums, communicator)


def _table_of(model: SequenceTransformer) -> ShardedItemTable:
    table = model.item_embedding
    assert isinstance(table, ShardedItemTable), "made for models with one"
    return table


def _until_all_end(batches: Iterable[Batch], communicator: Communicator) -> Iterator[Batch | None]:
    """This rank's batches, then None as long as another rank has some."""
    own = iter(batches)
    while True:
        batch = next(own, None)
        if not communicator.allreduce_sum(torch.tensor([float(batch is not None)])).any():
            return
        yield batch
