"""From row groups to batches: planned, shuffled, and made ahead of the model in a thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from recsys.errors import TrainingError
from recsys.schemas import TRAIN_SPLIT, VALIDATION_SPLIT, DataFile, PinnedTable
from recsys.train.plan import EpochPlan, count_batches, generator, plan_epoch
from recsys.train.shuffle import Rows, ShuffleBuffer

ReadRowGroups = Callable[[Sequence[DataFile]], Iterator[Rows]]
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Batch:
    """Windows of one padded length.

    Attributes:
        items: int64 [rows, length], oldest first, zeros in front; no rows in an empty batch.
        positions: int64 [targets], flat indices into [rows, length - 1]: inputs whose item and
            whose next item are both real. Found here, on the CPU, so that a GPU need not wait.
    """

    items: Tensor
    positions: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``; from pinned memory the copy does not block."""
        if device.type == "cpu":
            return self
        return Batch(
            self.items.to(device, non_blocking=True), self.positions.to(device, non_blocking=True)
        )


class Feed(Protocol):
    """Batches of one rank."""

    def steps_per_epoch(self, epoch: int) -> int:
        """Steps of that epoch, the same on every rank."""

    def epoch(self, epoch: int, skip: int = 0) -> BatchStream:
        """Training batches of an epoch after the first ``skip``; exactly the planned number."""

    def validation(self) -> BatchStream:
        """This rank's validation batches, in a fixed order; ranks may have different numbers."""


class RowGroupFeed:
    """Batches of a pinned table from any source of row groups (see the two functions below)."""

    def __init__(
        self,
        table: PinnedTable,
        read_row_groups: ReadRowGroups,
        *,
        seed: int,
        rank: int,
        ranks: int,
        batch_size: int,
        shuffle_rows: int,
        prefetch: int,
        pin_memory: bool = False,
    ) -> None:
        self._train = [file for file in table.files if file.split == TRAIN_SPLIT]
        self._validation = [file for file in table.files if file.split == VALIDATION_SPLIT]
        self._read, self._seed, self._rank, self._ranks = read_row_groups, seed, rank, ranks
        self._batch_size, self._shuffle_rows = batch_size, shuffle_rows
        self._prefetch, self._pin_memory = prefetch, pin_memory
        if not self._train or not self._validation:
            raise TrainingError(
                f"{len(self._train)} training and {len(self._validation)} validation files: "
                "both are needed",
                where=f"{table.name} version {table.version}",
                do="ingest more days, or raise gold.validation_share",
            )

    def steps_per_epoch(self, epoch: int) -> int:
        return self._plan(epoch).steps

    def epoch(self, epoch: int, skip: int = 0) -> BatchStream:
        plan = self._plan(epoch)
        return BatchStream(self._train_batches(plan, epoch, skip), self._prefetch, self._pin_memory)

    def validation(self) -> BatchStream:
        own = self._validation[self._rank :: self._ranks]
        return BatchStream(self._validation_batches(own), self._prefetch, self._pin_memory)

    def _plan(self, epoch: int) -> EpochPlan:
        return plan_epoch(
            self._train,
            seed=self._seed,
            epoch=epoch,
            rank=self._rank,
            ranks=self._ranks,
            batch_size=self._batch_size,
        )

    def _train_batches(self, plan: EpochPlan, epoch: int, skip: int) -> Iterator[Rows]:
        buffer = ShuffleBuffer(
            self._shuffle_rows,
            self._batch_size,
            choose_bucket=generator(self._seed, epoch, "bucket"),
            choose_rows=generator(self._seed, epoch, "rows", self._rank),
        )
        made = 0
        for rows in buffer.batches(self._read(plan.files)):
            made += 1
            if made > skip:
                yield rows
        if made != plan.batches:
            raise TrainingError(f"epoch {epoch} gave {made} batches, {plan.batches} were planned")
        empty = np.zeros((0, plan.files[0].bucket), dtype=np.int32)
        for _ in range(max(made, skip), plan.steps):
            yield empty

    def _validation_batches(self, files: Sequence[DataFile]) -> Iterator[Rows]:
        if not files:
            return
        for rows in self._read(files):
            for start in range(0, len(rows), self._batch_size):
                yield rows[start : start + self._batch_size]


def petastorm_feed(
    table: PinnedTable,
    *,
    workers: int,
    seed: int,
    rank: int,
    ranks: int,
    batch_size: int,
    shuffle_rows: int,
    prefetch: int,
    pin_memory: bool = False,
) -> RowGroupFeed:
    """The feed of production: row groups through Petastorm with ``workers`` threads.

    Raises:
        TrainingError: the table has no training or no validation files.
    """
    from recsys.train.petastorm_reader import read_row_groups

    return RowGroupFeed(
        table,
        lambda files: read_row_groups(files, workers),
        seed=seed,
        rank=rank,
        ranks=ranks,
        batch_size=batch_size,
        shuffle_rows=shuffle_rows,
        prefetch=prefetch,
        pin_memory=pin_memory,
    )


class InMemoryFeed(RowGroupFeed):
    """The twin without Petastorm: the same batches from arrays, for tests, benchmarks and GPUs.

    Args:
        rows: file url to its items, int32 [rows, bucket].
    """

    def __init__(
        self,
        table: PinnedTable,
        rows: Mapping[str, Rows],
        *,
        seed: int,
        rank: int,
        ranks: int,
        batch_size: int,
        shuffle_rows: int,
        prefetch: int,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            table,
            lambda files: (rows[file.url] for file in files),
            seed=seed,
            rank=rank,
            ranks=ranks,
            batch_size=batch_size,
            shuffle_rows=shuffle_rows,
            prefetch=prefetch,
            pin_memory=pin_memory,
        )


class BatchStream:
    """Iterates over batches that a thread makes ahead; counts the seconds the model waited.

    An exception in the thread is raised in the consumer. ``close`` (or leaving a ``with`` block)
    stops the thread, and with it the readers behind it.
    """

    def __init__(self, rows: Iterator[Rows], prefetch: int, pin_memory: bool = False) -> None:
        self._rows, self._pin_memory = rows, pin_memory
        self._queue: queue.Queue[Batch | BaseException | None] = queue.Queue(prefetch)
        self._stop = threading.Event()
        self.waited_seconds = 0.0
        self._thread = threading.Thread(target=self._produce, name="feed", daemon=True)
        self._thread.start()

    def __iter__(self) -> BatchStream:
        return self

    def __next__(self) -> Batch:
        started = time.perf_counter()
        made = self._queue.get()
        self.waited_seconds += time.perf_counter() - started
        if isinstance(made, Batch):
            return made
        self._queue.put(made)  # whoever asks again gets the same answer
        if made is None:
            raise StopIteration
        raise made

    def __enter__(self) -> BatchStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the thread and wait for it; can be called twice."""
        self._stop.set()
        self._thread.join()

    def _produce(self) -> None:
        try:
            for rows in self._rows:
                if not self._put(make_batch(rows, self._pin_memory)):
                    break
            self._put(None)
        except BaseException as error:  # handed to the consumer
            self._put(error)
        finally:
            close = getattr(self._rows, "close", None)
            if close is not None:
                close()

    def _put(self, made: Batch | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(made, timeout=_POLL_SECONDS)
                return True
            except queue.Full:
                continue
        return False


def make_batch(rows: Rows, pin_memory: bool = False) -> Batch:
    """Wrap items int32 [rows, length] and find the positions that have a target."""
    real = (rows[:, :-1] > 0) & (rows[:, 1:] > 0)
    items = torch.from_numpy(rows.astype(np.int64))
    positions = torch.from_numpy(np.flatnonzero(real))
    if pin_memory:
        items, positions = items.pin_memory(), positions.pin_memory()
    return Batch(items, positions)


__all__ = [
    "Batch",
    "BatchStream",
    "Feed",
    "InMemoryFeed",
    "RowGroupFeed",
    "count_batches",
    "make_batch",
    "petastorm_feed",
]
