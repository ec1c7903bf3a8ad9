"""How ranks come to the same weights, and what a way of summing gradients promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from recsys.train.communication import Group, Wait

Rounds = Generator[Wait, Tensor, Tensor]
"""The sum of one gradient over ranks, in rounds: yields a collective that has begun, is sent its
result, and returns the sum. So the rounds of many gradients run at the same time."""


class Exchange:
    """What ranks tell each other around a step; this one is for a rank that is alone."""

    def __init__(self, communicator: Group) -> None:
        self.communicator = communicator
        self._before = communicator.sent_bytes
        self._attached: dict[str, nn.Parameter] = {}
        self._late: dict[str, Tensor] = {}

    @property
    def sent_bytes(self) -> int:
        """Payload that this rank has sent in weights and gradients since it was made."""
        return self.communicator.sent_bytes - self._before

    def attach(self, optimizer: Optimizer, model: nn.Module, backwards: int) -> Optimizer:
        """The optimizer to use from now on; a step comes after ``backwards`` backward passes."""
        self._attached = dict(model.named_parameters())
        return optimizer

    def start_divisor(self, own_weight: float) -> Callable[[], float]:
        """Ask for what a rank divides the sum of its losses by; the call, once, waits for it.

        Args:
            own_weight: of the rank's own targets.
        """
        return lambda: own_weight

    def reduced(self, optimizer: Optimizer) -> AbstractContextManager[None]:
        """Inside the block gradients are those of the step, and the optimizer may step."""
        for name, kept in self._late.items():
            weight = self._attached[name]
            weight.grad = kept if weight.grad is None else weight.grad + kept
        self._late = {}
        return nullcontext()

    def after_step(self, model: nn.Module, global_step: int) -> None:
        """Called after each step of the optimizer, with its number from 0."""

    def agree(self, tensors: Iterable[Tensor]) -> None:
        """Make ranks equal before something is judged or saved.

        Args:
            tensors: weights, their averages and the optimizer's state; changed in place, the same
                on every rank afterwards.
        """

    def state_dict(self) -> dict[str, Any]:
        """After ``agree``: what a checkpoint needs besides weights, the same on every rank."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of ``state_dict``, also for another number of ranks.

        What others held back, a rank that is alone adds to its first step.
        """
        for name, kept in state.get("held_back", {}).items():
            self._late[name] = state["ranks"] * kept.to(self._attached[name].device)


class Compressor(ABC):
    """Sums one gradient over ranks with less traffic than a plain sum.

    What a rank holds back is kept and added to its next gradient ("error feedback": Karimireddy et
    al. 2019, "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", algorithm 2).

    Attributes:
        held_back: by the weight's name, shaped like its gradient, float32.
    """

    def __init__(self, communicator: Group) -> None:
        self.communicator = communicator
        self.held_back: dict[str, Tensor] = {}

    @abstractmethod
    def sum(self, name: str, gradient: Tensor) -> Rounds:
        """Rounds to the sum over ranks, the same on every rank, shaped like ``gradient``."""

    def add_held_back(self, name: str, gradient: Tensor) -> Tensor:
        """A new tensor: the gradient and what was held back of those before."""
        kept = self.held_back.get(name)
        return gradient.clone() if kept is None else gradient + kept
