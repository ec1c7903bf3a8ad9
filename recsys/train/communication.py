"""How ranks talk to each other: Horovod's ring-allreduce, or one process alone.

The only importer of Horovod. Everything else takes a ``Communicator``, so that sharding and
loss scaling are tested without processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Result = TypeVar("Result")


class Communicator(Protocol):
    """One rank's view of the ranks that train together."""

    @property
    def rank(self) -> int:
        """This process, 0 to size - 1."""

    @property
    def size(self) -> int:
        """Number of processes."""

    @property
    def local_rank(self) -> int:
        """This process among those of the same machine; chooses the GPU."""

    def wrap_optimizer(self, optimizer: Optimizer, model: nn.Module, backwards: int) -> Optimizer:
        """An optimizer that sums gradients over ranks while the last of ``backwards`` runs."""

    def reduced_gradients(self, optimizer: Optimizer) -> AbstractContextManager[None]:
        """Inside the block gradients are summed over ranks and ``optimizer.step`` may be called."""

    def broadcast_state(self, optimizer: Optimizer, model: nn.Module) -> None:
        """Give all ranks the weights and the optimizer's state of rank 0."""

    def broadcast_object(self, value: Any) -> Any:
        """Rank 0's ``value`` on every rank."""

    def allreduce_sum(self, values: Tensor) -> Tensor:
        """Sum of ``values`` (any shape, the same on all ranks) over ranks; a new tensor."""

    def barrier(self) -> None:
        """Wait until every rank is here."""

    def shutdown(self) -> None:
        """Leave the ring; nothing may be called afterwards."""


class SingleProcess:
    """The twin without Horovod: one rank, sums are identities."""

    rank = 0
    size = 1
    local_rank = 0

    def wrap_optimizer(self, optimizer: Optimizer, model: nn.Module, backwards: int) -> Optimizer:
        return optimizer

    def reduced_gradients(self, optimizer: Optimizer) -> AbstractContextManager[None]:
        return nullcontext()

    def broadcast_state(self, optimizer: Optimizer, model: nn.Module) -> None:
        return None

    def broadcast_object(self, value: Any) -> Any:
        return value

    def allreduce_sum(self, values: Tensor) -> Tensor:
        return values.clone()

    def barrier(self) -> None:
        return None

    def shutdown(self) -> None:
        return None


class HorovodCommunicator:
    """Horovod with PyTorch; the process must have been started by one of its launchers."""

    def __init__(self) -> None:
        import horovod.torch as hvd

        hvd.init()
        self._hvd = hvd
        self.rank: int = hvd.rank()
        self.size: int = hvd.size()
        self.local_rank: int = hvd.local_rank()

    def wrap_optimizer(self, optimizer: Optimizer, model: nn.Module, backwards: int) -> Optimizer:
        # Sum, not the default mean: the loss is already divided by the targets of all ranks.
        wrapped: Optimizer = self._hvd.DistributedOptimizer(
            optimizer,
            named_parameters=model.named_parameters(),
            backward_passes_per_step=backwards,
            op=self._hvd.Sum,
        )
        return wrapped

    @contextmanager
    def reduced_gradients(self, optimizer: Optimizer) -> Iterator[None]:
        # Gradients must be complete before they are clipped, hence the explicit wait.
        optimizer.synchronize()  # type: ignore[attr-defined]
        with optimizer.skip_synchronize():  # type: ignore[attr-defined]
            yield

    def broadcast_state(self, optimizer: Optimizer, model: nn.Module) -> None:
        self._hvd.broadcast_parameters(model.state_dict(), root_rank=0)
        # Of a fresh optimizer there is nothing to send, and Horovod would take a step with zero
        # gradients to make it up: Adam's bias correction would then start one step late.
        if optimizer.state:
            self._hvd.broadcast_optimizer_state(optimizer, root_rank=0)

    def broadcast_object(self, value: Any) -> Any:
        # By default the name is the type's, and ranks with different types wait forever.
        return self._hvd.broadcast_object(value, root_rank=0, name="object")

    def allreduce_sum(self, values: Tensor) -> Tensor:
        # By default the name counts this process's calls, of which a rank that came later has
        # made fewer: the others would wait for its first ones forever.
        name = f"sum {values.dtype} {tuple(values.shape)}"
        reduced: Tensor = self._hvd.allreduce(values, op=self._hvd.Sum, name=name)
        return reduced

    def barrier(self) -> None:
        self._hvd.allreduce(torch.zeros(1), name="barrier")

    def shutdown(self) -> None:
        self._hvd.shutdown()


def run_elastic(train: Callable[[Communicator, Callable[[], None]], Result]) -> Result:
    """Train while ranks come and go: ``train`` is called again whenever their number changes.

    Args:
        train: one rank's training among those that there are now. It calls its second argument
            wherever it can be begun again from; that raises when ranks have come or are to go.
            Of what a rank has, rank 0 tells the others: it is always one that was there before.
    """
    import horovod.torch as hvd
    from horovod.common.elastic import State

    class Hosts(State):
        """Hears of hosts that come and go; what a training goes on from is its own business."""

        def save(self) -> None:
            return None

        def restore(self) -> None:
            return None

        def sync(self) -> None:
            return None

    def attempt(hosts: State) -> Result:
        return train(HorovodCommunicator(), hosts.check_host_updates)

    hvd.init()
    tell = partial(hvd.broadcast_object, root_rank=0, name="hosts")
    result: Result = hvd.elastic.run(attempt)(Hosts(tell, hvd.rank))
    return result


def is_lost_connection(error: BaseException) -> bool:
    """Whether Horovod ended because of another rank."""
    return type(error).__name__ in ("HorovodInternalError", "HostsUpdatedInterrupt")
