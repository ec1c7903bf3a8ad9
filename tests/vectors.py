"""Vectors of items and users, as catalogues have them and as they don't."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def clustered(
    items: int, users: int, dims: int, clusters: int = 40, spread: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Items (row 0 is padding) of several lengths and users, around the same centres."""
    dice = np.random.default_rng(3)
    centres = dice.standard_normal((clusters, dims))

    def draw(count: int) -> np.ndarray:
        around = centres[dice.integers(0, clusters, count)]
        return around + spread * dice.standard_normal((count, dims))

    lengths = dice.lognormal(0.0, 0.2, (items + 1, 1))
    found = (draw(items + 1) * lengths, draw(users))
    return torch.from_numpy(found[0]).float(), torch.from_numpy(found[1]).float()


def random(items: int, users: int, dims: int) -> tuple[Tensor, Tensor]:
    """Items (row 0 is padding) and users without any structure."""
    dice = np.random.default_rng(4)
    return (
        torch.from_numpy(dice.standard_normal((items + 1, dims), dtype=np.float32)),
        torch.from_numpy(dice.standard_normal((users, dims), dtype=np.float32)),
    )
