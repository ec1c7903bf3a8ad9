"""From what a user did, and what is known of the user, to a vector."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.models.dropout import Dropout

_WIDER = 4


class UserTower(nn.Module):
    """A user's vector: mean of the items so far, the last one, and attributes, through one layer.

    Mean and attributes are added to what the layer makes. In training a share ``id_dropout`` of the
    states, of users with attributes, knows nothing of the items. Attributes start at zero, so that
    a word that training has not seen adds nothing.
    """

    bias_column: Tensor

    def __init__(
        self, dims: int, max_length: int, dropout: float, id_dropout: float, num_attributes: int
    ) -> None:
        super().__init__()
        self.dims, self.max_length, self.id_dropout = dims, max_length, id_dropout
        self.tower = make_tower(3 * dims, dims, dropout)
        self.attribute_embedding: nn.Embedding | None = None
        if num_attributes:
            self.attribute_embedding = nn.Embedding(num_attributes + 1, dims, padding_idx=0)
            nn.init.zeros_(self.attribute_embedding.weight)
        self.register_buffer("bias_column", torch.arange(dims) == 0, persistent=False)

    def forward(self, items: Tensor, vectors: Tensor, attributes: Tensor | None) -> Tensor:
        """States float [users, length, dims], each of its own item and earlier ones.

        A state without items, in the padding, is that of the user's attributes; without these zero.

        Args:
            items, vectors, attributes: see ``TwoTower.forward``.
        """
        items = items[:, -self.max_length :]
        had = (items > 0).cumsum(dim=1)
        last = self._look_up(items, vectors)
        mean = last.cumsum(dim=1) / had.clamp(min=1)[..., None]
        told, has = self._describe(attributes, len(items), last.device)
        told, has = told[:, None].expand_as(mean), has[:, None].expand_as(had)
        seen = had > 0
        if self.training and self.id_dropout > 0:
            drawn = torch.rand(had.shape, device=last.device) < self.id_dropout
            seen = seen & ~(drawn & has)
            mean, last = mean * seen[..., None], last * seen[..., None]
        return self._meet(mean, last, told, seen | has)

    def encode(self, items: Tensor, vectors: Tensor, attributes: Tensor | None) -> Tensor:
        """The last of ``forward``'s states in evaluation, float [users, dims]."""
        items = items[:, -self.max_length :]
        had = (items > 0).sum(dim=1)
        each = self._look_up(items, vectors)
        told, has = self._describe(attributes, len(items), each.device)
        mean = each.sum(dim=1) / had.clamp(min=1)[:, None]
        return self._meet(mean, each[:, -1], told, (had > 0) | has)

    def _look_up(self, items: Tensor, vectors: Tensor) -> Tensor:
        # In full precision: long sums lose too much in others.
        found = functional.embedding(items, vectors).float()
        return found.masked_fill(self.bias_column, 0.0)

    def _describe(
        self, attributes: Tensor | None, users: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Sum of attributes' embeddings, float [users, dims], and who has some, bool [users]."""
        if self.attribute_embedding is None or attributes is None:
            nothing = torch.zeros(users, self.dims, device=device)
            return nothing, torch.zeros(users, dtype=torch.bool, device=device)
        told = self.attribute_embedding(attributes).sum(dim=1)
        return told.masked_fill(self.bias_column, 0.0), (attributes > 0).any(dim=1)

    def _meet(self, mean: Tensor, last: Tensor, told: Tensor, known: Tensor) -> Tensor:
        scale = math.sqrt(self.dims)
        made = self.tower(torch.cat([mean, last, told], dim=-1) * scale) + (mean + told) * scale
        states: Tensor = made.masked_fill(self.bias_column, 1.0) * known[..., None]
        return states


def make_tower(inputs: int, outputs: int, share: float) -> nn.Sequential:
    """One hidden layer, four times as wide as the output."""
    hidden = _WIDER * outputs
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.GELU(), Dropout(share), nn.Linear(hidden, outputs)
    )
