"""How ranks talk to each other: what a rank may ask of the others, and one process alone.

Everything takes a ``Communicator``, so that sharding and loss scaling are tested without
processes. The one of several ranks is in ``horovod_communication.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

Wait = Callable[[], Tensor]
"""A collective that has begun; the call waits for it and gives its result, a new tensor."""


class Group(Protocol):
    """One rank's view of some ranks that add numbers up, or trade them.

    What starts a collective has a name, alike on all ranks, that no other running one has; the
    tensor must not change until it has ended.
    """

    @property
    def rank(self) -> int:
        """This process, 0 to size - 1."""

    @property
    def size(self) -> int:
        """Number of processes."""

    @property
    def sent_bytes(self) -> int:
        """Payload that this rank has sent in gradients and started collectives, in bytes.

        By the algorithms that Horovod uses: an allreduce of b bytes on a ring of n ranks sends
        2 b (n - 1) / n of each; an allgather passes on all but one rank's part (Patarasuk and Yuan
        2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations", section 4).
        """

    def allreduce_sum(self, values: Tensor) -> Tensor:
        """Sum of ``values`` (any shape, the same on all ranks) over ranks; a new tensor."""

    def start_allreduce(self, values: Tensor, name: str) -> Wait:
        """The sum over ranks of float ``values`` of one shape."""

    def start_allgather(self, values: Tensor, name: str) -> Wait:
        """All ranks' ``values`` one after the other along the first dimension."""

    def start_alltoall(self, values: Tensor, splits: Sequence[int], name: str) -> Wait:
        """What every rank has for this one, in order of ranks, along the first dimension.

        Args:
            splits: how many rows of ``values`` go to each rank.
        """


class Communicator(Group, Protocol):
    """One rank's view of the ranks that train together."""

    @property
    def local_rank(self) -> int:
        """This process among those of the same machine; chooses the GPU."""

    def split(self, groups: Sequence[Sequence[int]]) -> Group:
        """This rank among those of its group; alone where none of the groups has it.

        All ranks call this, with the same groups (ascending ranks, each in one at most).
        """

    def wrap_optimizer(
        self, optimizer: Optimizer, model: nn.Module, backwards: int, half: bool = False
    ) -> Optimizer:
        """An optimizer that sums gradients over ranks while the last of ``backwards`` runs.

        Args:
            optimizer: of some or all weights of ``model``.
            half: gradients travel as float16.
        """

    def reduced_gradients(self, optimizer: Optimizer) -> AbstractContextManager[None]:
        """Inside the block gradients are summed over ranks and ``optimizer.step`` may be called."""

    def broadcast_state(self, optimizer: Optimizer | None, model: nn.Module) -> None:
        """Give all ranks the weights of rank 0, and its optimizer's state (None: only weights)."""

    def broadcast_object(self, value: Any) -> Any:
        """Rank 0's ``value`` on every rank."""

    def barrier(self) -> None:
        """Wait until every rank is here."""

    def shutdown(self) -> None:
        """Leave the ring; nothing may be called afterwards."""


class SingleProcess:
    """The twin without Horovod: one rank, sums are identities."""

    rank = 0
    size = 1
    local_rank = 0
    sent_bytes = 0

    def split(self, groups: Sequence[Sequence[int]]) -> Group:
        return self

    def wrap_optimizer(
        self, optimizer: Optimizer, model: nn.Module, backwards: int, half: bool = False
    ) -> Optimizer:
        return optimizer

    def reduced_gradients(self, optimizer: Optimizer) -> AbstractContextManager[None]:
        return nullcontext()

    def broadcast_state(self, optimizer: Optimizer | None, model: nn.Module) -> None:
        return None

    def broadcast_object(self, value: Any) -> Any:
        return value

    def allreduce_sum(self, values: Tensor) -> Tensor:
        return values.clone()

    def start_allreduce(self, values: Tensor, name: str) -> Wait:
        return values.clone

    def start_allgather(self, values: Tensor, name: str) -> Wait:
        return values.clone

    def start_alltoall(self, values: Tensor, splits: Sequence[int], name: str) -> Wait:
        return values.clone

    def barrier(self) -> None:
        return None

    def shutdown(self) -> None:
        return None
