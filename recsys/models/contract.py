"""What every kind of model promises, so that one loop trains it and one job scores it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from recsys.models.items import Links

Inputs = Mapping[str, Tensor]
"""What is known of some users, by name (``ModelConfig.looks_at``): ``items``, int [users, length],
oldest first, zeros in front; ``hours`` (since 1970) and ``event_types`` (codes), shaped alike;
``user_idx``, int [users]; ``user_attributes``, int [users, codes], hashes of the words of what is
known of the users besides their events, from 1, and zeros."""


class ModelConfig(Protocol):
    """Shape of a model; ``to_dict`` names its kind, ``from_dict`` is its inverse."""

    @property
    def num_items(self) -> int:
        """Largest item_idx that the model knows."""

    @property
    def max_length(self) -> int:
        """Most events of a history that it looks at."""

    @property
    def looks_at(self) -> tuple[str, ...]:
        """Names of ``Inputs`` that it needs."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON; ``kind`` is the key in ``registry``."""


class Recommender(nn.Module, ABC):
    """A model that scores every item of the catalogue for a user.

    Attributes:
        config: its shape.
        user_tables: names of weights with a row a user, zeros where it is unknown (see ``pairs``).
        row_tables: names of modules whose ``weight`` a training may look up by rows alone; then
            its gradients can be sparse (see ``sparse_tables``).
    """

    config: Any
    user_tables: ClassVar[tuple[str, ...]] = ()
    row_tables: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def knows(self, given: Inputs) -> Tensor:
        """Which users the model can say something about, bool [users]."""

    @abstractmethod
    def score_items(self, given: Inputs) -> Tensor:
        """Scores of all items, higher is better, float [users, num_items + 1].

        Column 0 is padding: its value means nothing.
        """

    def set_popularity(self, counts: Tensor) -> None:
        """Told before the first step how often each item is a target, float [num_items + 1]."""

    def place_new_items(self, counts: Tensor, new: Tensor) -> None:
        """Told before the first step of a training that starts from an earlier model's weights.

        Args:
            counts: how often each item is a target, float [num_items + 1].
            new: items that the earlier model has learned nothing of, bool [num_items + 1].
        """

    def extend_items(self, links: Links) -> Recommender:
        """A model that knows items that came after its training by their attributes, if it can.

        Args:
            links: from all items of today, [num_items of today], to hashes of their words (of
                ``config.attribute_buckets``, where a kind has that).
        """
        return self

    def for_scoring(self) -> Recommender:
        """A model with the same scores that is cheaper to ask; it need not be fit for training."""
        return self


class DotProductRecommender(Recommender):
    """A model whose scores are products of a user's and an item's vector.

    Lists are made from the vectors then, without the scores of all items (``ranking.exact_top_n``).

    Attributes:
        biases: first columns of an item's vector that are a bias, 1 in every user's: they say how
            good an item is for anybody, not what it is like.
    """

    biases: ClassVar[int] = 0

    @abstractmethod
    def item_vectors(self, items: Tensor | None = None) -> Tensor:
        """Vector of each item, float [num_items + 1, dims]; row 0 is padding.

        Args:
            items: item_idx, int64 [count]: only of these, float [count, dims].
        """

    @abstractmethod
    def user_vectors(self, given: Inputs, item_vectors: Tensor) -> Tensor:
        """Vector of each user, float [users, dims].

        Args:
            given: what is known of the users.
            item_vectors: what ``item_vectors()`` gives, so that many batches share it.
        """

    def known_items(self) -> Tensor:
        """Items that may be in lists, bool [num_items + 1]; what it says of padding means nothing.

        All, unless a kind says otherwise.
        """
        size = self.config.num_items + 1
        return torch.ones(size, dtype=torch.bool, device=next(self.parameters()).device)

    def score_items(self, given: Inputs) -> Tensor:
        """Products of users' and items' vectors, float [users, num_items + 1].

        Items that nothing is known of have -inf.
        """
        vectors = self.item_vectors()
        scores = self.user_vectors(given, vectors) @ vectors.T
        return scores.masked_fill(~self.known_items(), -torch.inf)
