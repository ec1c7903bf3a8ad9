"""The largest entries of a gradient alone."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.train.communication import Group
from recsys.train.exchange.contract import Compressor, Rounds


class TopKSum(Compressor):
    """Each rank sends its largest entries and their places; the rest is held back.

    Source: Aji and Heafield 2017, "Sparse Communication for Distributed Gradient Descent", section
    3; with error feedback Stich et al. 2018, "Sparsified SGD with Memory", algorithm 1.

    Args:
        share: of a gradient's entries; at least one is sent.
    """

    def __init__(self, communicator: Group, share: float) -> None:
        super().__init__(communicator)
        self._share = share

    def sum(self, name: str, gradient: Tensor) -> Rounds:
        rest = self.add_held_back(name, gradient).float().flatten()
        count = max(1, int(rest.numel() * self._share))
        places = rest.abs().topk(count, sorted=False).indices
        message = torch.cat([rest[places].view(torch.int32), places.to(torch.int32)])
        rest[places] = 0.0
        self.held_back[name] = rest.view_as(gradient)
        everyone = yield self.communicator.start_allgather(message, f"{name}.largest")
        total = torch.zeros_like(rest)
        for values, indices in everyone.view(-1, 2, count):  # in order of ranks: the same on all
            total.index_add_(0, indices.long(), values.contiguous().view(torch.float32))
        return total.view_as(gradient).to(gradient.dtype)
