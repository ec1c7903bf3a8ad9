"""Ranks that talk through Horovod: its ring-allreduce, its process sets and its elastic mode.

Beside the launcher and ``horovod_waits`` the only importer of Horovod.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from recsys.train.communication import Communicator, Group, SingleProcess, Wait
from recsys.train.horovod_waits import sleep_in_waits

Result = TypeVar("Result")

FUSION, CYCLE = "HOROVOD_FUSION_THRESHOLD", "HOROVOD_CYCLE_TIME"
"""Horovod's variables for ``train.exchange.fusion_mb`` (in bytes) and ``cycle_ms``."""


class HorovodGroup:
    """The ranks of one of Horovod's process sets."""

    def __init__(self, hvd: Any, process_set: Any) -> None:
        self._hvd, self._set = hvd, process_set
        self.rank: int = process_set.rank()
        self.size: int = process_set.size()
        self.sent_bytes = 0

    def _ring_bytes(self, size: int) -> int:
        return 2 * size * (self.size - 1) // self.size

    def allreduce_sum(self, values: Tensor) -> Tensor:
        # By default the name counts this process's calls, of which a rank that came later has
        # made fewer: the others would wait for its first ones forever.
        name = f"sum {values.dtype} {tuple(values.shape)}"
        reduced: Tensor = self._hvd.allreduce(
            values, op=self._hvd.Sum, name=name, process_set=self._set
        )
        return reduced

    def start_allreduce(self, values: Tensor, name: str) -> Wait:
        self.sent_bytes += self._ring_bytes(values.nbytes)
        return self._wait(
            self._hvd.allreduce_async(values, op=self._hvd.Sum, name=name, process_set=self._set)
        )

    def start_allgather(self, values: Tensor, name: str) -> Wait:
        # Ranks' parts are much the same size here; exactly it is the sum of all but one's.
        self.sent_bytes += values.nbytes * (self.size - 1)
        return self._wait(self._hvd.allgather_async(values, name=name, process_set=self._set))

    def start_alltoall(self, values: Tensor, splits: Sequence[int], name: str) -> Wait:
        others = sum(splits) - splits[self.rank]
        self.sent_bytes += others * values[:1].nbytes
        counts = torch.tensor(splits, dtype=torch.int32)
        handle = self._hvd.alltoall_async(values, splits=counts, name=name, process_set=self._set)
        wait = self._wait(handle)
        return lambda: wait()[0]

    def _wait(self, handle: int) -> Callable[[], Any]:
        return lambda: self._hvd.synchronize(handle)


class HorovodCommunicator(HorovodGroup):
    """Horovod with PyTorch; the process must have been started by one of its launchers.

    Args:
        splits: whether ``split`` is going to be called; ranks then agree in every cycle on the
            groups that there are, which the others need not pay for.
    """

    def __init__(self, splits: bool = False) -> None:
        import horovod.torch as hvd

        sleep_in_waits()
        hvd.init(process_sets="dynamic" if splits else None)
        super().__init__(hvd, hvd.global_process_set)
        self.local_rank: int = hvd.local_rank()
        self._bytes_a_step = 0
        self._groups: dict[tuple[int, ...], Group] = {}

    def split(self, groups: Sequence[Sequence[int]]) -> Group:
        own: Group = SingleProcess()
        for ranks in map(tuple, groups):
            if len(ranks) > 1 and ranks not in self._groups:
                self._groups[ranks] = self._make_group(ranks)
            if self.rank in ranks:
                own = self._groups.get(ranks, own)
        return own

    def _make_group(self, ranks: tuple[int, ...]) -> Group:
        if len(ranks) == self.size:  # Horovod refuses a set that is there already
            return self
        made = self._hvd.add_process_set(list(ranks))
        return HorovodGroup(self._hvd, made) if self.rank in ranks else SingleProcess()

    def wrap_optimizer(
        self, optimizer: Optimizer, model: nn.Module, backwards: int, half: bool = False
    ) -> Optimizer:
        kinds = self._hvd.Compression
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        size = sum(
            weight.numel() * (2 if half else weight.element_size())
            for weight in weights
            if weight.requires_grad
        )
        self._bytes_a_step = self._ring_bytes(size)
        # Sum, not the default mean: the loss is already divided by the targets of all ranks.
        wrapped: Optimizer = self._hvd.DistributedOptimizer(
            optimizer,
            named_parameters=model.named_parameters(),
            compression=kinds.fp16 if half else kinds.none,
            backward_passes_per_step=backwards,
            op=self._hvd.Sum,
        )
        return wrapped

    @contextmanager
    def reduced_gradients(self, optimizer: Optimizer) -> Iterator[None]:
        # Gradients must be complete before they are clipped, hence the explicit wait.
        optimizer.synchronize()  # type: ignore[attr-defined]
        self.sent_bytes += self._bytes_a_step
        with optimizer.skip_synchronize():  # type: ignore[attr-defined]
            yield

    def broadcast_state(self, optimizer: Optimizer | None, model: nn.Module) -> None:
        self._hvd.broadcast_parameters(model.state_dict(), root_rank=0)
        # Of a fresh optimizer there is nothing to send, and Horovod would take a step with zero
        # gradients to make it up: Adam's bias correction would then start one step late.
        if optimizer is not None and optimizer.state:
            self._hvd.broadcast_optimizer_state(optimizer, root_rank=0)

    def broadcast_object(self, value: Any) -> Any:
        # By default the name is the type's, and ranks with different types wait forever.
        return self._hvd.broadcast_object(value, root_rank=0, name="object")

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

    sleep_in_waits()
    hvd.init()
    tell = partial(hvd.broadcast_object, root_rank=0, name="hosts")
    result: Result = hvd.elastic.run(attempt)(Hosts(tell, hvd.rank))
    return result


def is_lost_connection(error: BaseException) -> bool:
    """Whether a rank ended because of another one."""
    lost = ("HorovodInternalError", "HostsUpdatedInterrupt", "LostStageError")
    return type(error).__name__ in lost
