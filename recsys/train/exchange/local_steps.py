"""Ranks that train alone and average their weights now and then."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from recsys.train.communication import Communicator, Wait
from recsys.train.exchange.contract import Exchange


class LocalSteps(Exchange):
    """Local SGD: each rank steps by its own gradients; every few steps weights are averaged.

    With a delay ranks go on while the average is on its way, and then move by what it differs from
    the weights that they sent: no rank is ever more than ``every + delay`` steps from an average.
    Moments of the optimizer stay each rank's own until ranks have to ``agree``.

    Source: Stich 2019, "Local SGD Converges Fast and Communicates Little", algorithm 1; the delay
    is Wang et al. 2020, "Overlap Local-SGD", section 3, without its momentum.

    Args:
        every: steps between two averages.
        delay: steps that an average may be late; less than ``every``.
    """

    def __init__(self, communicator: Communicator, every: int, delay: int) -> None:
        super().__init__(communicator)
        self._every, self._delay = every, delay
        self._sent: list[tuple[Tensor, Tensor, Wait]] = []
        self._due = -1

    def after_step(self, model: nn.Module, global_step: int) -> None:
        if (global_step + 1) % self._every == 0:
            for name, weight in model.named_parameters():
                sent = weight.detach().clone()
                self._sent.append((weight, sent, self.communicator.start_allreduce(sent, name)))
            self._due = global_step + self._delay
        if global_step == self._due:
            self._move()

    @torch.no_grad()
    def _move(self) -> None:
        for weight, sent, wait in self._sent:
            mean = wait() / self.communicator.size
            if self._delay:
                weight.add_(mean - sent)
            else:
                weight.copy_(mean)
        self._sent.clear()

    @torch.no_grad()
    def agree(self, tensors: Iterable[Tensor]) -> None:
        self._move()
        waits = [
            (tensor, self.communicator.start_allreduce(tensor, f"agree.{number}"))
            for number, tensor in enumerate(tensors)
        ]
        for tensor, wait in waits:
            tensor.copy_(wait() / self.communicator.size)
