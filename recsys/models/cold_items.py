"""Items that their attributes alone must serve: those that came late, and some in each step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsys.models.items import ItemTable


class ColdItemTable(ItemTable):
    """Item vectors of which the own embedding is left out for some items with attributes.

    Cold items always go without: those that were no target in training, and row 0. Attributes start
    at zero, so that a word that training has not seen adds nothing.
    """

    cold: Tensor

    def __init__(
        self,
        num_items: int,
        dims: int,
        num_attributes: int,
        attribute_links: int,
        id_dropout: float,
    ) -> None:
        super().__init__(num_items, dims, num_attributes, attribute_links)
        self.id_dropout = id_dropout
        # As bytes: Horovod sends no truth values.
        self.register_buffer("cold", (torch.arange(num_items + 1) == 0).byte())
        if self.attribute_embedding is not None:
            nn.init.zeros_(self.attribute_embedding)

    def known(self, items: Tensor | None = None) -> Tensor:
        """Whether anything is known of all items, or of ``items``: bool [count]."""
        return ~self._is_cold(items) | self._described(items)

    def _is_cold(self, items: Tensor | None) -> Tensor:
        return (self.cold if items is None else self.cold[items]).bool()

    def _described(self, items: Tensor | None) -> Tensor:
        """Items with attributes, bool [count]."""
        offsets = self.get_buffer("attribute_offsets")
        if not len(offsets):
            return torch.zeros_like(self.cold if items is None else items, dtype=torch.bool)
        counts = offsets.diff()
        return (counts if items is None else counts[items]) > 0

    def _own_embedding(self, items: Tensor | None) -> Tensor:
        own = super()._own_embedding(items)
        left_out = self._is_cold(items)
        if self.training and self.id_dropout > 0:
            drawn = torch.rand(len(own), device=own.device) < self.id_dropout
            left_out = left_out | (drawn & self._described(items))
        return own * ~left_out[:, None]

    def take_over(self, earlier: ColdItemTable) -> None:
        """The embeddings of a table of fewer items; those that it lacks are cold."""
        if self.attribute_embedding is not None and earlier.attribute_embedding is not None:
            self.attribute_embedding.copy_(earlier.attribute_embedding)
        both = min(len(self.weight), len(earlier.weight))
        self.weight.zero_()
        self.weight[:both] = earlier.weight[:both]
        self.cold.fill_(1)
        self.cold[:both] = earlier.cold[:both]
