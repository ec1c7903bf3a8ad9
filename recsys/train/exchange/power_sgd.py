"""Gradients as products of two thin matrices."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from recsys.train.communication import Group
from recsys.train.exchange.contract import Compressor, Rounds


class PowerSgdSum(Compressor):
    """One step of the power method finds P and Q with P Qᵀ near the gradient's sum.

    Q is kept for the next step; what P Qᵀ misses is held back. Source: Vogels et al. 2019,
    "PowerSGD", algorithms 1 and 2.

    Args:
        rank: columns of P and Q.
    """

    def __init__(self, communicator: Group, rank: int) -> None:
        super().__init__(communicator)
        self._rank = rank
        self.factors: dict[str, Tensor] = {}

    def sum(self, name: str, gradient: Tensor) -> Rounds:
        wanted = self.add_held_back(name, gradient).float().view(len(gradient), -1)
        right = self._right(name, wanted)
        product = yield self.communicator.start_allreduce(wanted @ right, f"{name}.left")
        left = torch.linalg.qr(product).Q
        right = yield self.communicator.start_allreduce(wanted.T @ left, f"{name}.right")
        self.factors[name] = right
        total = left @ right.T
        # Of the sum each rank takes its part off, so that what all hold back is what the sum lacks.
        self.held_back[name] = (wanted - total / self.communicator.size).view_as(gradient)
        return total.view_as(gradient).to(gradient.dtype)

    def _right(self, name: str, wanted: Tensor) -> Tensor:
        """Q of the step before, or the same random one on every rank."""
        if name not in self.factors:
            draw = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            shape = (wanted.shape[1], min(self._rank, *wanted.shape))
            self.factors[name] = torch.randn(shape, generator=draw).to(wanted.device)
        return self.factors[name]
