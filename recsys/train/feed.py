"""From row groups to the batches of a rank: planned, shuffled, and the same in every run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from recsys.errors import TrainingError
from recsys.schemas import TRAIN_SPLIT, VALIDATION_SPLIT, DataFile, PinnedTable
from recsys.train.batch import Recency
from recsys.train.batch_stream import BatchStream
from recsys.train.plan import (
    EpochPlan,
    Takeover,
    generator,
    order_batches,
    plan_epoch,
    rows_of_batch,
    take_over,
)
from recsys.train.rows import Channels, Rows
from recsys.train.shuffle import ShuffleBuffer

ReadRowGroups = Callable[[Sequence[DataFile]], Generator[Rows, None, None]]


@dataclass(frozen=True)
class FeedOptions:
    """How one rank makes batches.

    Attributes:
        seed: same seed and table, same batches.
        rank, ranks: this process and their number.
        batch_size, batch_events: see ``plan.rows_of_batch``.
        shuffle_rows: rows held to shuffle.
        prefetch: batches made ahead of the model.
        recency: weighs targets by age; needs hours among the channels.
        pin_memory: for a GPU.
        channels: what rows hold of each event.
        user_codes: what is known of users (see ``user_links``); needs user_idx among the channels.
        stages: so many ranks, one after the other, read the same training windows (a pipeline);
            validation windows are dealt to all ranks.
    """

    seed: int
    rank: int
    ranks: int
    batch_size: int
    shuffle_rows: int
    prefetch: int
    recency: Recency | None = None
    pin_memory: bool = False
    batch_events: int | None = None
    channels: Channels = field(default_factory=Channels)
    user_codes: Rows | None = None
    stages: int = 1

    @property
    def reader(self) -> int:
        """This process among those that read different training windows."""
        return self.rank // self.stages

    @property
    def readers(self) -> int:
        """How many read different training windows."""
        return self.ranks // self.stages


class Feed(Protocol):
    """Batches of one rank."""

    def steps_per_epoch(self, epoch: int) -> int:
        """Steps of that epoch, the same on every rank."""

    def epoch(self, epoch: int, skip: int = 0) -> BatchStream:
        """Training batches of an epoch after the first ``skip``; exactly the planned number."""

    def take_over(self, epoch: int, before: Takeover | None, ranks: int, steps: int) -> Takeover:
        """Where this number of ranks goes on after ``steps`` of ``ranks`` (``plan.take_over``)."""

    def steps_of_rest(self, epoch: int, start: Takeover) -> int:
        """As ``steps_per_epoch``, of an epoch that other ranks began."""

    def rest(self, epoch: int, start: Takeover, skip: int = 0) -> BatchStream:
        """As ``epoch``, of one that other ranks began: what they left, without the first ``skip``.

        Batches are dealt to ranks by turns, so each rank reads the whole rest.
        """

    def validation(self) -> BatchStream:
        """This rank's validation batches, in a fixed order; ranks may have different numbers."""


class RowGroupFeed:
    """Batches of a pinned table from any source of row groups (see the two functions below)."""

    def __init__(
        self, table: PinnedTable, read_row_groups: ReadRowGroups, options: FeedOptions
    ) -> None:
        self._train = [file for file in table.files if file.split == TRAIN_SPLIT]
        self._validation = [file for file in table.files if file.split == VALIDATION_SPLIT]
        self._read, self._options = read_row_groups, options
        if not self._train or not self._validation:
            raise TrainingError(
                f"{len(self._train)} training and {len(self._validation)} validation files: "
                "both are needed",
                where=f"{table.name} version {table.version}",
                do="ingest more days, or raise gold.validation_share",
            )

    def steps_per_epoch(self, epoch: int) -> int:
        return self._plan(epoch, self._options.readers)[0].steps

    def epoch(self, epoch: int, skip: int = 0) -> BatchStream:
        return self._stream(self._train_batches(epoch, skip))

    def take_over(self, epoch: int, before: Takeover | None, ranks: int, steps: int) -> Takeover:
        streams = self._plan(epoch, before.streams if before else ranks)
        return take_over(before, [plan.batches for plan in streams], ranks, steps)

    def steps_of_rest(self, epoch: int, start: Takeover) -> int:
        counts = [plan.batches for plan in self._plan(epoch, start.streams)]
        return start.steps(counts, self._options.readers)

    def rest(self, epoch: int, start: Takeover, skip: int = 0) -> BatchStream:
        return self._stream(self._rest_batches(epoch, start, skip))

    def validation(self) -> BatchStream:
        own = self._validation[self._options.rank :: self._options.ranks]
        return self._stream(self._validation_batches(own))

    def _stream(self, rows: Iterator[Rows]) -> BatchStream:
        options = self._options
        return BatchStream(
            rows,
            options.prefetch,
            options.recency,
            options.pin_memory,
            options.channels,
            options.user_codes,
        )

    def _plan(self, epoch: int, ranks: int) -> list[EpochPlan]:
        return plan_epoch(
            self._train,
            seed=self._options.seed,
            epoch=epoch,
            ranks=ranks,
            batch_size=self._options.batch_size,
            batch_events=self._options.batch_events,
        )

    def _train_batches(self, epoch: int, skip: int) -> Iterator[Rows]:
        options = self._options
        plan = self._plan(epoch, options.readers)[options.reader]
        with closing(self._batches_of(plan, epoch, options.reader)) as batches:
            yield from itertools.islice(batches, skip, None)
        yield from self._empty_batches(plan, plan.steps - max(plan.batches, skip))

    def _rest_batches(self, epoch: int, start: Takeover, skip: int) -> Iterator[Rows]:
        options = self._options
        plans = self._plan(epoch, start.streams)
        counts = [plan.batches for plan in plans]
        first, made = start.used + skip * options.readers, 0
        with ExitStack() as stack:
            streams = [
                stack.enter_context(closing(self._batches_of(plan, epoch, stream)))
                for stream, plan in enumerate(plans)
            ]
            for at, stream in enumerate(order_batches(counts)):
                rows = next(streams[stream])
                if at >= first and (at - start.used) % options.readers == options.reader:
                    made += 1
                    yield rows
        steps = start.steps(counts, options.readers) - skip
        yield from self._empty_batches(plans[0], steps - made)

    def _batches_of(self, plan: EpochPlan, epoch: int, stream: int) -> Generator[Rows, None, None]:
        """All batches with rows in them that rank ``stream`` of those that began would take."""
        options = self._options
        buffer = ShuffleBuffer(
            options.shuffle_rows,
            options.batch_size,
            buckets=plan.buckets,
            choose_rows=generator(options.seed, epoch, "rows", stream),
            batch_events=options.batch_events,
            channels=options.channels.size,
        )
        made = 0
        with closing(self._read(plan.files)) as row_groups:
            for rows in buffer.batches(row_groups):
                made += 1
                if made > plan.batches:
                    break
                yield rows
        if made != plan.batches:
            raise TrainingError(f"epoch {epoch} gave {made} batches, {plan.batches} were planned")

    def _empty_batches(self, plan: EpochPlan, count: int) -> Iterator[Rows]:
        width = plan.files[0].bucket * self._options.channels.size
        for _ in range(count):
            yield np.zeros((0, width), dtype=np.int32)

    def _validation_batches(self, files: Sequence[DataFile]) -> Iterator[Rows]:
        if not files:
            return
        options = self._options
        with closing(self._read(files)) as row_groups:
            for rows in row_groups:
                bucket = rows.shape[1] // options.channels.size
                size = rows_of_batch(bucket, options.batch_size, options.batch_events)
                for start in range(0, len(rows), size):
                    yield rows[start : start + size]


def petastorm_feed(
    table: PinnedTable, options: FeedOptions, workers: int, store: Mapping[str, str] | None = None
) -> RowGroupFeed:
    """The feed of production: row groups through Petastorm with ``workers`` threads.

    ``store``: see ``read_row_groups``.

    Raises:
        TrainingError: the table has no training or no validation files.
    """
    from recsys.train.petastorm_reader import read_row_groups

    return RowGroupFeed(
        table, lambda files: read_row_groups(files, workers, options.channels, store), options
    )


class InMemoryFeed(RowGroupFeed):
    """The twin without Petastorm: the same batches from arrays, for tests, benchmarks and GPUs.

    Args:
        table: its urls are only keys here.
        rows: url to its rows, which hold what ``options.channels`` says.
        options: as for Petastorm.
    """

    def __init__(self, table: PinnedTable, rows: Mapping[str, Rows], options: FeedOptions) -> None:
        super().__init__(table, lambda files: (rows[file.url] for file in files), options)
