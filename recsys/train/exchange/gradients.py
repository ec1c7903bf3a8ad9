"""Gradients summed over ranks each step: by Horovod's own optimizer, or compressed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from recsys.models.sparse_tables import common_weights
from recsys.train.communication import Communicator, Group, Wait
from recsys.train.exchange.contract import Compressor, Exchange, Rounds
from recsys.train.exchange.power_sgd import PowerSgdSum
from recsys.train.exchange.quantized import Int8Sum

_FEW = 1024
"""Gradients of fewer entries are sent whole: a message costs more than its bytes."""


def start_sum_of_weights(group: Group, own_weight: float) -> Callable[[], float]:
    """Weight of the targets of all of its ranks; on its way while the model runs forward."""
    wait = group.start_allreduce(
        torch.tensor([own_weight], dtype=torch.float64), "weight of targets"
    )
    return lambda: float(wait())


class SummedGradients(Exchange):
    """The gradient of a step is the sum over ranks."""

    def start_divisor(self, own_weight: float) -> Callable[[], float]:
        return start_sum_of_weights(self.communicator, own_weight)


class WholeGradients(SummedGradients):
    """By Horovod's ``DistributedOptimizer``: fused, and while the backward pass still runs.

    Args:
        half: as float16 on the way.
    """

    def __init__(self, communicator: Communicator, half: bool = False) -> None:
        super().__init__(communicator)
        self._ranks, self._half = communicator, half

    def attach(self, optimizer: Optimizer, model: nn.Module, backwards: int) -> Optimizer:
        return self._ranks.wrap_optimizer(optimizer, model, backwards, self._half)

    def reduced(self, optimizer: Optimizer) -> AbstractContextManager[None]:
        return self._ranks.reduced_gradients(optimizer)


class WholeSum(Compressor):
    """As it is."""

    def sum(self, name: str, gradient: Tensor) -> Rounds:
        total = yield self.communicator.start_allreduce(gradient, name)
        return total


class CompressedGradients(SummedGradients):
    """By a compressor, begun as soon as a weight's gradient of the step is complete.

    Vectors and small matrices go whole.

    Args:
        communicator: of the ranks that have the weights.
        compressor: of the same.
        names: of the weights; None: all that are common.
    """

    def __init__(
        self,
        communicator: Group,
        compressor: Compressor,
        names: Collection[str] | None = None,
    ) -> None:
        super().__init__(communicator)
        self._compressor, self._names = compressor, names
        self._weights: dict[str, nn.Parameter] = {}
        self._passes: dict[str, int] = {}
        self._pending: dict[str, tuple[Rounds, Wait]] = {}

    def attach(self, optimizer: Optimizer, model: nn.Module, backwards: int) -> Optimizer:
        self._backwards = backwards
        for name, weight in common_weights(model).items():
            if self._names is not None and name not in self._names:
                continue
            self._weights[name] = weight
            weight.register_post_accumulate_grad_hook(partial(self._count, name))
        return optimizer

    def _count(self, name: str, weight: Tensor) -> None:
        self._passes[name] = self._passes.get(name, 0) + 1
        if self._passes[name] == self._backwards:
            self._start(name)

    def _start(self, name: str) -> None:
        weight = self._weights[name]
        if weight.grad is None:  # other ranks may have one
            weight.grad = torch.zeros_like(weight)
        compressed = weight.ndim > 1 and weight.numel() >= _FEW
        rounds = (self._compressor.sum if compressed else self._sum_whole)(name, weight.grad)
        self._pending[name] = rounds, next(rounds)

    def _sum_whole(self, name: str, gradient: Tensor) -> Rounds:
        total = yield self.communicator.start_allreduce(gradient, name)
        return total

    @contextmanager
    def reduced(self, optimizer: Optimizer) -> Iterator[None]:
        for name in self._weights:
            if name not in self._pending:
                self._start(name)
        self._finish()
        self._passes.clear()
        yield

    @torch.no_grad()
    def _finish(self) -> None:
        """Round by round for all weights, in one order on all ranks."""
        while self._pending:
            for name in [name for name in self._weights if name in self._pending]:
                rounds, wait = self._pending.pop(name)
                try:
                    self._pending[name] = rounds, rounds.send(wait())
                except StopIteration as done:
                    self._weights[name].grad = done.value

    def agree(self, tensors: Iterable[Tensor]) -> None:
        """Weights are equal already; what ranks hold back is shared out evenly."""
        compressor = self._compressor
        if isinstance(compressor, Int8Sum):
            compressor.settle()
        size = self.communicator.size
        waits = {
            name: self.communicator.start_allreduce(kept, f"{name}.held_back")
            for name, kept in compressor.held_back.items()
        }
        for name, wait in waits.items():
            compressor.held_back[name] = wait() / size

    def state_dict(self) -> dict[str, Any]:
        content = {"held_back": self._compressor.held_back, "ranks": self.communicator.size}
        if isinstance(self._compressor, PowerSgdSum):
            content["factors"] = self._compressor.factors
        return content

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not state:  # of a rank that was alone
            return
        share = state["ranks"] / self.communicator.size
        for name, kept in state["held_back"].items():
            self._compressor.held_back[name] = (kept * share).to(self._weights[name].device)
        if isinstance(self._compressor, PowerSgdSum):
            for name, factor in state["factors"].items():
                self._compressor.factors[name] = factor.to(self._weights[name].device)
