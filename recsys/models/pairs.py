"""What models with a row for each user share: their shape, whom they know, and forgetting.

A user's row starts at zero and stays there until a training has an example of that user. So a row
of zeros *is* an unknown user: nothing else remembers who was trained, ranks and averages agree on
it, and whoever is forgotten is unknown again. Row 0 is padding, and stands for users that came
after the training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from recsys.models.contract import Recommender
from recsys.models.shape import Shape


@dataclass(frozen=True)
class PairConfig(Shape):
    """Shape of a model of pairs; ``to_dict`` and ``from_dict`` are inverse to each other.

    Attributes:
        num_items: largest item_idx.
        num_users: largest user_idx.
        dims: width of the vectors of users and items.
    """

    num_items: int
    num_users: int
    dims: int

    def __post_init__(self) -> None:
        if min(dataclasses.astuple(self)) < 1:
            raise ValueError(f"impossible model: {self}")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], num_items: int, num_users: int) -> Self:
        """Take the shape from ``settings.model``, the sizes from the data."""
        return cls(**cls.pick(settings), num_items=num_items, num_users=num_users)

    @property
    def max_length(self) -> int:
        """Of a history nothing is looked at; 1 is the least that there is."""
        return 1

    @property
    def looks_at(self) -> tuple[str, ...]:
        """Names of what it needs: the user alone."""
        return ("user_idx",)


def find_rows(user_idx: Tensor, table: Tensor) -> Tensor:
    """Row of each user, int64 like ``user_idx``; 0 for users that the table does not reach."""
    reached = (user_idx > 0) & (user_idx < len(table))
    return torch.where(reached, user_idx, 0)


def has_rows(user_idx: Tensor, table: Tensor) -> Tensor:
    """Which users a table of user rows knows, bool like ``user_idx``."""
    known: Tensor = (table.index_select(0, find_rows(user_idx, table)) != 0).any(dim=1)
    return known


@torch.no_grad()
def forget_users(model: Recommender, user_idx: Sequence[int]) -> int:
    """Zero the users' rows in place; how many of them the model had known something about."""
    known = torch.zeros(len(user_idx), dtype=torch.bool)
    for name in model.user_tables:
        table = model.get_parameter(name)
        users = torch.tensor(user_idx, dtype=torch.int64, device=table.device)
        known |= has_rows(users, table).cpu()
        table[find_rows(users, table)] = 0.0
    return int(known.sum())
