"""A small network on the vectors of a user and an item, side by side: will the user take it?

It is the classifier of many introductions to Keras: embeddings of both, concatenated, a dense layer
of ReLUs, and one sigmoid. (He et al. 2017, "Neural Collaborative Filtering", section 3.3, stack
more layers.) With equal weights it gives the numbers that Keras gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.models.contract import Inputs, Recommender
from recsys.models.pairs import PairConfig, find_rows, has_rows

_ITEM_RANGE = 0.05
_HELD_AT_ONCE = 1 << 22
"""Outputs of the hidden layer held at once in scoring: 16 MiB in float32."""


@dataclass(frozen=True)
class CollaborativeNetworkConfig(PairConfig):
    """Shape of a model.

    Attributes:
        hidden: width of the dense layer.
    """

    kind: ClassVar[str] = "collaborative_network"

    hidden: int


class CollaborativeNetwork(Recommender):
    """Embeddings of user and item, dense ReLU, dense 1; outputs are logits.

    Items start evenly within ±0.05 and the layers as Glorot and Bengio 2010 have it, as in Keras;
    users at zero (see ``pairs``).
    """

    user_tables = ("user_embedding.weight",)
    row_tables = ("user_embedding", "item_embedding")
    config: CollaborativeNetworkConfig

    def __init__(self, config: CollaborativeNetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.user_embedding = nn.Embedding(config.num_users + 1, config.dims, padding_idx=0)
        self.item_embedding = nn.Embedding(config.num_items + 1, config.dims, padding_idx=0)
        self.hidden = nn.Linear(2 * config.dims, config.hidden)
        self.output = nn.Linear(config.hidden, 1)
        nn.init.zeros_(self.user_embedding.weight)
        nn.init.uniform_(self.item_embedding.weight, -_ITEM_RANGE, _ITEM_RANGE)
        for layer in (self.hidden, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.item_embedding.weight[0] = 0.0

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Logits of each user's items, float [users, count]; their sigmoid is the probability.

        Args:
            users: user_idx, int64 [users].
            items: item_idx, int64 [users, count].
        """
        return self._combine(self._from_users(users)[:, None], self._from_items(items))

    def knows(self, given: Inputs) -> Tensor:
        """Users of whom there was a pair, bool [users]."""
        return has_rows(given["user_idx"], self.user_embedding.weight)

    def score_items(self, given: Inputs) -> Tensor:
        """Logits of all items, float [users, num_items + 1]: in the order of the probabilities.

        The dense layer is linear in either vector, W [u, i] + b = W_u u + (W_i i + b), so each
        user and item goes through it once. What is left a pair is ReLU and one product, in chunks.
        """
        users = self._from_users(given["user_idx"])
        items = self._from_items(torch.arange(len(self.item_embedding.weight), device=users.device))
        scores = users.new_empty(len(users), len(items))
        wide = max(1, _HELD_AT_ONCE // self.config.hidden)  # pairs at once
        for first in range(0, len(items), wide):
            part = slice(first, first + wide)
            rows = max(1, wide // len(items[part]))
            for at in range(0, len(users), rows):
                some = slice(at, at + rows)
                scores[some, part] = self._combine(users[some, None], items[None, part])
        return scores

    def _from_users(self, users: Tensor) -> Tensor:
        vectors = self.user_embedding(find_rows(users, self.user_embedding.weight))
        return functional.linear(vectors, self.hidden.weight[:, : self.config.dims])

    def _from_items(self, items: Tensor) -> Tensor:
        weight = self.hidden.weight[:, self.config.dims :]
        return functional.linear(self.item_embedding(items), weight, self.hidden.bias)

    def _combine(self, from_users: Tensor, from_items: Tensor) -> Tensor:
        logits: Tensor = self.output(functional.relu(from_users + from_items))[..., 0]
        return logits
