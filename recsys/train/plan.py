"""Who reads what: row groups dealt over ranks, and the step count all ranks agree on.

Pure arithmetic on row counts: every rank computes the plan of all ranks before step 0, so no
rank ever waits for a batch that another one doesn't have.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.errors import TrainingError
from recsys.schemas import DataFile

BATCH_ORDER = 2
"""Raised when epochs take their batches in another order: where a training stands means other
batches then, so checkpoints of before are not continued."""


@dataclass(frozen=True)
class EpochPlan:
    """One rank's part of an epoch.

    A step is as slow as its slowest rank: so ranks take batches of the same bucket together, and
    at the end of the epoch, where they have different ones left, the largest first.

    Attributes:
        files: row groups of this rank in reading order.
        full: bucket to the full batches of it that every rank has.
        own: buckets of the batches that this rank takes after these.
        steps: steps of every rank; those without a batch are empty.
        seed, epoch: decide the order of the full batches.
    """

    files: tuple[DataFile, ...]
    full: Mapping[int, int]
    own: tuple[int, ...]
    steps: int
    seed: int
    epoch: int

    @property
    def batches(self) -> int:
        """Batches with rows in them."""
        return sum(self.full.values()) + len(self.own)

    @property
    def common(self) -> tuple[int, ...]:
        """The bucket of each full batch that every rank has, in the order in which all take them.

        Made when it is asked for: a schedule plans many epochs to count their steps alone.
        """
        buckets = sorted(self.full)
        ordered = np.repeat(buckets, [self.full[bucket] for bucket in buckets])
        return tuple(generator(self.seed, self.epoch, "bucket").permutation(ordered).tolist())

    @property
    def buckets(self) -> tuple[int, ...]:
        """The bucket of each batch."""
        return self.common + self.own


@dataclass(frozen=True)
class Takeover:
    """Where in an epoch another number of ranks goes on.

    The batches of the epoch stay those that the ranks which began it would make. Their order is by
    step, then by rank; the ranks that go on take what is left in that order, by turns.

    Attributes:
        streams: ranks that began the epoch.
        used: batches taken before, in that order.
    """

    streams: int
    used: int

    def steps(self, counts: Sequence[int], ranks: int) -> int:
        """Steps that ``ranks`` ranks need for what is left; ``counts``: batches of each stream."""
        return -(-(sum(counts) - self.used) // ranks)


def take_over(before: Takeover | None, counts: Sequence[int], ranks: int, steps: int) -> Takeover:
    """Where the next number of ranks goes on.

    Args:
        before: where ``ranks`` ranks went on; None: they began the epoch.
        counts: batches of each stream, one stream for each rank that began.
        ranks: number of ranks that leave off.
        steps: that they have taken since.
    """
    if before is None:
        return Takeover(len(counts), sum(min(steps, count) for count in counts))
    return Takeover(len(counts), min(sum(counts), before.used + ranks * steps))


def order_batches(counts: Sequence[int]) -> Iterator[int]:
    """The stream of each batch of an epoch, in the epoch's order."""
    for step in range(max(counts)):
        yield from (stream for stream, count in enumerate(counts) if step < count)


def plan_epoch(
    files: Sequence[DataFile],
    *,
    seed: int,
    epoch: int,
    ranks: int,
    batch_size: int,
    batch_events: int | None = None,
) -> list[EpochPlan]:
    """Deal row groups over ranks in a seeded order, balanced by rows within each bucket.

    Args:
        files: row groups of one split, in an order that depends on their content only.
        seed, epoch: the same pair gives the same plan on every rank and machine.
        ranks: number of processes.
        batch_size, batch_events: see ``rows_of_batch``.

    Returns:
        The plan of each rank.

    Raises:
        TrainingError: there are fewer row groups than ranks.
    """
    if len(files) < ranks:
        split = files[0].split if files else "training"
        raise TrainingError(
            f"{ranks} readers (train.ranks, over train.parallel.pipeline_stages) share "
            f"{len(files)} row groups of the {split} split: a row group is read by one of them, so "
            "some would have nothing to do",
            do=f"raise gold.min_row_groups to {ranks} or more and rebuild gold, or lower "
            f"train.ranks (elastic: train.max_ranks) so that {max(1, len(files))} read",
        )
    order = generator(seed, epoch, "plan").permutation(len(files))
    dealt = _deal([files[i] for i in order], ranks)
    sizes = {file.bucket: rows_of_batch(file.bucket, batch_size, batch_events) for file in files}
    full, own = _share([_count_rows(part) for part in dealt], sizes)
    steps = sum(full.values()) + max(map(len, own))
    return [
        EpochPlan(tuple(part), full, rest, steps, seed, epoch)
        for part, rest in zip(dealt, own, strict=True)
    ]


def rows_of_batch(bucket: int, batch_size: int, batch_events: int | None) -> int:
    """Rows of a full batch of one rank.

    Args:
        bucket: padded length of the rows.
        batch_size: rows at most.
        batch_events: rows times ``bucket`` at most, where that allows a row; None: no bound.
    """
    return batch_size if batch_events is None else max(1, min(batch_size, batch_events // bucket))


def count_batches(
    files: Sequence[DataFile], batch_size: int, batch_events: int | None = None
) -> int:
    """Batches of one rank: each holds rows of one bucket, only a bucket's last may be partial."""
    return sum(
        -(-count // rows_of_batch(bucket, batch_size, batch_events))
        for bucket, count in _count_rows(files).items()
    )


def _count_rows(files: Sequence[DataFile]) -> dict[int, int]:
    rows: dict[int, int] = defaultdict(int)
    for file in files:
        rows[file.bucket] += file.rows
    return rows


def _share(
    rows: Sequence[Mapping[int, int]], sizes: Mapping[int, int]
) -> tuple[dict[int, int], list[tuple[int, ...]]]:
    """Full batches that every rank has, by bucket; buckets of each rank's others, largest first.

    Args:
        rows: of each rank, by bucket.
        sizes: rows of a full batch, by bucket.
    """
    full = {
        bucket: min(own.get(bucket, 0) // size for own in rows) for bucket, size in sizes.items()
    }
    others = [
        sorted(
            (
                (min(sizes[bucket], count - start) * bucket, bucket)
                for bucket, count in own.items()
                for start in range(full[bucket] * sizes[bucket], count, sizes[bucket])
            ),
            reverse=True,
        )
        for own in rows
    ]
    return full, [tuple(bucket for _, bucket in batches) for batches in others]


def generator(seed: int, *purpose: int | str) -> np.random.Generator:
    """A random generator that depends on the seed and on what it is for, and on nothing else."""
    words = [w if isinstance(w, int) else zlib.crc32(w.encode()) for w in purpose]
    return np.random.default_rng([seed & 0xFFFFFFFF, *words])


def _deal(files: Sequence[DataFile], ranks: int) -> list[list[DataFile]]:
    """Give each file to the rank with the fewest rows of its bucket (then fewest positions).

    Balance within a bucket matters more than the total: ranks then take batches of the same
    length at the same time, and a step is as slow as its slowest rank.
    """
    parts: list[list[DataFile]] = [[] for _ in range(ranks)]
    by_bucket: list[dict[int, int]] = [defaultdict(int) for _ in range(ranks)]
    positions = [0] * ranks
    largest_first = sorted(range(len(files)), key=lambda i: (-files[i].bucket, -files[i].rows, i))
    owner = {}
    for i in largest_first:
        file = files[i]
        owner[i] = min(range(ranks), key=lambda r: (by_bucket[r][file.bucket], positions[r], r))
        by_bucket[owner[i]][file.bucket] += file.rows
        positions[owner[i]] += file.rows * file.bucket
    for i, file in enumerate(files):
        parts[owner[i]].append(file)
    return parts
