"""A table split by rows over ranks in threads: its parts, and the whole again."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.train.sharding.parts import deal_rows
from tests.thread_ranks import ThreadRank


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def part_of(whole: Tensor, rank: ThreadRank) -> Tensor:
    return whole[rank.rank :: rank.size].clone().requires_grad_()


def whole_of(parts: list[Tensor]) -> Tensor:
    return deal_rows(parts, 0, 1)
