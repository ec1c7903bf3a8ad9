"""One rank's part of the item table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recsys.models.items import STD, ItemTable
from recsys.train.communication import Communicator
from recsys.train.sharding.owners import LookUp, Owners

_DRAWN_AT_ONCE = 4096
"""Rows; times any width a multiple of 16, by which torch draws: so parts are the whole's."""


class ShardedItemTable(ItemTable):
    """Rows of this rank of the table that ``ItemTable`` would be; looked up on all ranks together.

    Every rank draws the whole table, a part at a time, and keeps its own rows: so ranks of any
    number start with the same weights as one process. What ranks do not share is no part of
    ``state_dict`` (see ``SplitTables``). Links are not supported.

    Args:
        communicator: of all ranks.
        num_items, dims: of the whole table.
        links: of ``ItemTable``; zeros.
    """

    sharded = True

    def __init__(self, communicator: Communicator, num_items: int, dims: int, *links: float):
        if any(links):
            raise ValueError(f"a split table has no links: {links}")
        self.owners = Owners(communicator, num_items + 1)  # needed by reset
        super().__init__(self.owners.own - 1, dims)

    @torch.no_grad()
    def reset(self) -> None:
        """Draw new embeddings; padding and biases are zero."""
        rows, dims = self.owners.rows, self.weight.shape[1]
        filled = 0
        starts = range(0, max(1, rows - _DRAWN_AT_ONCE + 1), _DRAWN_AT_ONCE)
        for start in starts:
            stop = rows if start == starts[-1] else start + _DRAWN_AT_ONCE
            drawn = torch.empty(stop - start, dims).normal_(std=STD)
            chosen = drawn[self.owners.is_own(torch.arange(start, stop))]
            self.weight[filled : filled + len(chosen)] = chosen
            filled += len(chosen)
        self.weight[:, 0] = 0.0
        if self.owners.communicator.rank == 0:
            self.weight[0] = 0.0

    @torch.no_grad()
    def set_biases(self, biases: Tensor) -> None:
        """As ``ItemTable``: of all items."""
        numbers = self.owners.numbers()
        items = numbers[numbers > 0]
        self.weight[len(numbers) - len(items) :, 0] = biases[(items - 1).to(biases.device)]

    def _own_embedding(self, items: Tensor | None) -> Tensor:
        if items is None:
            raise ValueError("a split table is looked up by items, never whole")
        vectors: Tensor = LookUp.apply(self.weight, items, self.owners, self.sparse)
        return vectors

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[f"{prefix}weight"]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *given: Any) -> None:
        own = {**state_dict, f"{prefix}weight": self.weight}
        super()._load_from_state_dict(own, prefix, *given)
