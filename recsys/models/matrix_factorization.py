"""Matrix factorization of ratings: a rating is a mean, two biases, and a product of two vectors.

Source: Koren, Bell and Volinsky 2009, "Matrix Factorization Techniques for Recommender Systems",
equations 3 to 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from recsys.models.contract import Inputs, Recommender
from recsys.models.pairs import PairConfig, find_rows, has_rows

_MIDDLE = 3.0  # of the scale from 1 to 5
_ITEM_STD = 0.1


@dataclass(frozen=True)
class MatrixFactorizationConfig(PairConfig):
    """Shape of a model."""

    kind: ClassVar[str] = "matrix_factorization"


class MatrixFactorization(Recommender):
    """rating = mean + bias of the user + bias of the item + user's vector · item's vector.

    The mean is a weight as the others are, without a penalty, and starts at the middle of the
    scale: least squares makes it the overall average.

    An item's vector starts at random, so that there is something to learn from, and its bias at 0.
    An item without any rating keeps both. Its bias, exactly 0, says so: outside training such an
    item counts with the mean and the user's bias alone, and no chance vector lets it win.
    """

    user_tables = ("user_factors.weight", "user_biases.weight")
    row_tables = ("user_factors", "item_factors", "user_biases", "item_biases")
    config: MatrixFactorizationConfig

    def __init__(self, config: MatrixFactorizationConfig) -> None:
        super().__init__()
        self.config = config
        users, items = config.num_users + 1, config.num_items + 1
        self.mean = nn.Parameter(torch.full((1,), _MIDDLE))
        self.user_factors = nn.Embedding(users, config.dims, padding_idx=0)
        self.item_factors = nn.Embedding(items, config.dims, padding_idx=0)
        self.user_biases = nn.Embedding(users, 1, padding_idx=0)
        self.item_biases = nn.Embedding(items, 1, padding_idx=0)
        for zero in (self.user_factors, self.user_biases, self.item_biases):
            nn.init.zeros_(zero.weight)
        nn.init.normal_(self.item_factors.weight, std=_ITEM_STD)
        with torch.no_grad():
            self.item_factors.weight[0] = 0.0

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """Ratings of pairs, float [pairs]; not clipped to the scale.

        Args:
            users, items: user_idx and item_idx, int64 [pairs].
        """
        users = find_rows(users, self.user_factors.weight)
        item_biases = self.item_biases(items)
        vectors = self._settle(self.item_factors(items), item_biases)
        products = (self.user_factors(users) * vectors).sum(dim=1)
        rating: Tensor = self.mean + (self.user_biases(users) + item_biases)[:, 0] + products
        return rating

    def penalize(self, users: Tensor, items: Tensor) -> Tensor:
        """Sum of squares of all that a pair touches but the mean, float [pairs] (equation 5)."""
        user_rows, item_rows = self.rows_of(users, items)
        return user_rows.square().sum(dim=1) + item_rows.square().sum(dim=1)

    def rows_of(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """What each pair has of its user and of its item: vector and bias, float [pairs, dims + 1].

        Args:
            users, items: user_idx and item_idx, int64 [pairs].
        """
        user_rows = torch.cat([self.user_factors(users), self.user_biases(users)], dim=1)
        return user_rows, torch.cat([self.item_factors(items), self.item_biases(items)], dim=1)

    def knows_items(self, items: Tensor) -> Tensor:
        """Items of which there was a rating, bool like ``items``."""
        return self.item_biases.weight[items, 0] != 0

    def knows(self, given: Inputs) -> Tensor:
        """Users of whom there was a rating, bool [users]."""
        return has_rows(given["user_idx"], self.user_factors.weight)

    def score_items(self, given: Inputs) -> Tensor:
        """Ratings of all items, float [users, num_items + 1]; not clipped, so that lists have an
        order above 5 too."""
        users = find_rows(given["user_idx"], self.user_factors.weight)
        item_biases = self.item_biases.weight
        vectors = self._settle(self.item_factors.weight, item_biases)
        products = self.user_factors(users) @ vectors.T
        return products + (self.mean + self.user_biases(users)) + item_biases.T

    def _settle(self, vectors: Tensor, biases: Tensor) -> Tensor:
        return vectors if self.training else vectors * (biases != 0)
