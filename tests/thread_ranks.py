"""Several ranks in one process, a thread each, for what they send each other."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from recsys.train.communication import Group, SingleProcess, Wait

T = TypeVar("T")
_TIMEOUT = 60.0


class Ring:
    """What the ranks of one run share: the parts that each has begun to send, by name."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.parts: dict[tuple[str, int], dict[int, Any]] = defaultdict(dict)
        self.changed = threading.Condition()
        self.groups: dict[tuple[int, ...], Ring] = {}

    def of(self, ranks: tuple[int, ...]) -> Ring:
        """What some of the ranks share."""
        with self.changed:
            return self.groups.setdefault(ranks, Ring(len(ranks)))

    def put(self, key: tuple[str, int], rank: int, part: Any) -> None:
        with self.changed:
            assert rank not in self.parts[key], key
            self.parts[key][rank] = part
            self.changed.notify_all()

    def all_of(self, key: tuple[str, int]) -> list[Any]:
        with self.changed:
            whole = self.changed.wait_for(lambda: len(self.parts[key]) == self.size, _TIMEOUT)
            assert whole, f"ranks {sorted(self.parts[key])} of {self.size} came to {key}"
            return [self.parts[key][rank] for rank in range(self.size)]


class ThreadRank(SingleProcess):
    """One of the ranks that ``run_ranks`` runs."""

    def __init__(self, rank: int, ring: Ring) -> None:
        self.rank, self.size, self._ring = rank, ring.size, ring  # type: ignore[misc]
        self._calls: dict[str, int] = defaultdict(int)
        self.sent_bytes = 0

    def split(self, groups: Sequence[Sequence[int]]) -> Group:
        for ranks in map(tuple, groups):
            if self.rank in ranks:
                return ThreadRank(ranks.index(self.rank), self._ring.of(ranks))
        return SingleProcess()

    def allreduce_sum(self, values: Tensor) -> Tensor:
        return self.start_allreduce(values, "sum")()

    def start_allreduce(self, values: Tensor, name: str) -> Wait:
        self.sent_bytes += 2 * values.nbytes * (self.size - 1) // self.size
        return self._start(name, values.clone(), lambda parts: torch.stack(parts).sum(dim=0))

    def start_allgather(self, values: Tensor, name: str) -> Wait:
        self.sent_bytes += values.nbytes * (self.size - 1)
        return self._start(name, values.clone(), torch.cat)

    def start_alltoall(self, values: Tensor, splits: Sequence[int], name: str) -> Wait:
        assert sum(splits) == len(values)
        self.sent_bytes += (sum(splits) - splits[self.rank]) * values[:1].nbytes
        parts = values.clone().split(list(splits))
        return self._start(
            name, parts, lambda all_parts: torch.cat([p[self.rank] for p in all_parts])
        )

    def barrier(self) -> None:
        self.start_allreduce(torch.zeros(1), "barrier")()

    def _start(self, name: str, part: Any, join: Callable[[list[Any]], Tensor]) -> Wait:
        key = name, self._calls[name]
        self._calls[name] += 1
        self._ring.put(key, self.rank, part)
        return lambda: join(self._ring.all_of(key))


def run_ranks(size: int, run: Callable[[ThreadRank], T]) -> list[T]:
    """What ``run`` returns on each of ``size`` ranks; the first error of any is raised."""
    ring = Ring(size)
    with ThreadPoolExecutor(size) as threads:
        done = [threads.submit(run, ThreadRank(rank, ring)) for rank in range(size)]
        return [future.result() for future in done]
