"""Two towers: one makes a vector of a user's history and attributes, one of an item's attributes.

Users: Covington et al. 2016, "Deep Neural Networks for YouTube Recommendations", section 3 (mean of
what was watched, beside what is known of the user, through a feed-forward network). Items: Yi et
al. 2019, "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", section
3 (a tower of their own; the sampled softmax is that of ``sampled_losses``). Attributes are hashes
of words, so that whoever and whatever came after the training has some too, and they serve alone
because training often takes the rest away: Volkovs et al. 2017, "DropoutNet", section 4.1.
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from recsys.models.blocks import initialise
from recsys.models.cold_items import ColdItemTable
from recsys.models.contract import DotProductRecommender, Inputs
from recsys.models.items import Links
from recsys.models.shape import Shape
from recsys.models.user_tower import UserTower, make_tower

KIND = "two_tower"


@dataclass(frozen=True)
class TwoTowerConfig(Shape):
    """Shape of a model; ``to_dict`` and ``from_dict`` are inverse to each other.

    Attributes:
        num_items: largest item_idx.
        max_length: most items of a history that count; older ones are dropped.
        dims: width of vectors; the towers' hidden layers are four times as wide.
        dropout: share of the towers' hidden units dropped in training.
        id_dropout: share of items, and of histories, that training takes away where there are
            attributes.
        attribute_buckets: different hashes of words, of items and of users.
        attribute_links: links from items to hashes; 0: no item has attributes.
        user_attributes: whether users have attributes.
    """

    kind: ClassVar[str] = KIND

    num_items: int
    max_length: int
    dims: int
    dropout: float
    id_dropout: float
    attribute_buckets: int
    attribute_links: int = 0
    user_attributes: bool = False

    def __post_init__(self) -> None:
        if min(self.num_items, self.max_length, self.attribute_buckets) < 1 or self.dims < 2:
            raise ValueError(f"impossible model: {self}")

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], num_items: int, max_length: int, **links: Any
    ) -> TwoTowerConfig:
        """Take the shape from ``settings.model``, the sizes (and ``links``) from the data."""
        return cls(**{**cls.pick(settings), **links}, num_items=num_items, max_length=max_length)

    @property
    def looks_at(self) -> tuple[str, ...]:
        """Names of what it needs of users."""
        return ("items", "user_attributes") if self.user_attributes else ("items",)


class _Towers(DotProductRecommender):
    """What a model in training and one for scoring have in common: vectors, and their products.

    Column 0 of an item's vector is its bias and 1 in a user's, as in ``SequenceTransformer``.
    """

    config: TwoTowerConfig
    users: UserTower
    biases = 1

    @abstractmethod
    def item_vectors(self, items: Tensor | None = None) -> Tensor:
        """Vector of each item, float [num_items + 1, dims]; zero for what nothing is known of.

        Args:
            items: item_idx, int64 [count]: only of these, float [count, dims].
        """

    @abstractmethod
    def known_items(self) -> Tensor:
        """Items that were targets in training or have attributes, bool [num_items + 1]."""

    def forward(
        self, items: Tensor, vectors: Tensor | None = None, user_attributes: Tensor | None = None
    ) -> Tensor:
        """Vector of each user after each item, float [users, length, dims]; see ``UserTower``.

        Args:
            items: rows of ``vectors``, int [users, length]; 0 is padding, in front.
            vectors: of items, float [rows, dims], row 0 is padding; None takes
                ``item_vectors()``, and ``items`` are item_idx then.
            user_attributes: hashes from 1, int [users, codes], zeros are none.
        """
        vectors = self.item_vectors() if vectors is None else vectors
        states: Tensor = self.users(items, vectors, user_attributes)
        return states

    def encode(
        self, items: Tensor, vectors: Tensor | None = None, user_attributes: Tensor | None = None
    ) -> Tensor:
        """Vector of each user, float [users, dims]: the state after the last item."""
        vectors = self.item_vectors() if vectors is None else vectors
        return self.users.encode(items, vectors, user_attributes)

    def knows(self, given: Inputs) -> Tensor:
        """Users with an item or an attribute, bool [users]."""
        known = (given["items"] > 0).any(dim=1)
        if self.config.user_attributes:
            known = known | (given["user_attributes"] > 0).any(dim=1)
        return known

    def user_vectors(self, given: Inputs, item_vectors: Tensor) -> Tensor:
        """What ``encode`` makes of the users, float [users, dims]."""
        known = {name: given[name] for name in self.config.looks_at}
        return self.encode(**known, vectors=item_vectors)


class TwoTower(_Towers):
    """The model as it is trained."""

    bias_column: Tensor

    def __init__(self, config: TwoTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.items = ColdItemTable(
            config.num_items,
            config.dims,
            config.attribute_buckets,
            config.attribute_links,
            config.id_dropout,
        )
        self.item_tower = make_tower(config.dims, config.dims, config.dropout)
        self.users = UserTower(
            config.dims,
            config.max_length,
            config.dropout,
            config.id_dropout,
            config.attribute_buckets if config.user_attributes else 0,
        )
        self.register_buffer("bias_column", torch.arange(config.dims) == 0, persistent=False)
        initialise(self)

    @torch.no_grad()
    def set_popularity(self, counts: Tensor) -> None:
        """Let the biases predict how often each item is a target (see ``SequenceTransformer``).

        Items that are none are cold: they go by their attributes alone.
        """
        logs = torch.log(counts[1:].to(self.items.weight) + 1.0)
        self.items.weight[1:, 0] = logs - logs.mean()
        self.items.cold.copy_(counts == 0)
        self.items.cold[0] = 1

    def item_vectors(self, items: Tensor | None = None) -> Tensor:
        own: Tensor = self.items(items)
        content = own.masked_fill(self.bias_column, 0.0)
        made = own + self.item_tower(content * math.sqrt(self.config.dims))
        made = torch.cat([own[:, :1], made[:, 1:]], dim=1)
        return made * self.items.known(items)[:, None]

    def known_items(self) -> Tensor:
        return self.items.known()

    @torch.no_grad()
    def extend_items(self, links: Links) -> TwoTower:
        """The same model with today's attributes, and with the items that came since."""
        if not self.config.attribute_links:
            return self
        config = dataclasses.replace(
            self.config, num_items=len(links.offsets) - 2, attribute_links=len(links)
        )
        longer = TwoTower(config).to(self.items.weight.device)
        mine = {k: v for k, v in self.state_dict().items() if not k.startswith("items.")}
        longer.load_state_dict(mine, strict=False)
        longer.items.take_over(self.items)
        longer.items.set_links("attribute", links)
        return longer.train(self.training)

    @torch.no_grad()
    def for_scoring(self) -> ReadyTowers:
        """The same scores from one vector an item, made once."""
        return ReadyTowers(self).train(self.training)


class ReadyTowers(_Towers):
    """A model for scoring: the item tower has done its work."""

    vectors: Tensor
    known: Tensor

    def __init__(self, trained: TwoTower) -> None:
        super().__init__()
        self.config, self.users = trained.config, trained.users
        self.register_buffer("vectors", trained.item_vectors().float())
        self.register_buffer("known", trained.known_items())

    def item_vectors(self, items: Tensor | None = None) -> Tensor:
        return self.vectors if items is None else self.vectors[items]

    def known_items(self) -> Tensor:
        return self.known
