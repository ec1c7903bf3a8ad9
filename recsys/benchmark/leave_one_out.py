"""Leave-one-out: a user's last item is the test, the one before it the validation, the rest trains.

The protocol of the published figures on sequence sets (Kang and McAuley 2018, section IV): every
item of the catalogue is ranked, the user's earlier items are left out. Items of validation and
test are never trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from recsys import schemas
from recsys.benchmark.sequence_file import IntArray
from recsys.config import Gold
from recsys.errors import InputError
from recsys.schemas import TRAIN_SPLIT, VALIDATION_SPLIT, DataFile, PinnedTable

_FEWEST_EVENTS = 3


@dataclass(frozen=True)
class LeaveOneOut:
    """The three parts of a set; users with fewer than three events are left out.

    Attributes:
        train: items to train on, of each user.
        validation, test: item_idx of each user's target, int64 [users].
        left_out: users with too few events.
    """

    train: list[IntArray]
    validation: IntArray
    test: IntArray
    left_out: int

    def histories(self, part: str) -> list[IntArray]:
        """What is known of each user before the target of ``validation`` or ``test``."""
        if part == "validation":
            return self.train
        return [np.append(own, item) for own, item in zip(self.train, self.validation, strict=True)]

    def targets(self, part: str) -> IntArray:
        """item_idx of each user's target of ``validation`` or ``test``."""
        return self.validation if part == "validation" else self.test


def split(sequences: Sequence[IntArray]) -> LeaveOneOut:
    """Split each user's events.

    Raises:
        InputError: no user has three events.
    """
    kept = [items for items in sequences if len(items) >= _FEWEST_EVENTS]
    if not kept:
        raise InputError(
            "no user has three events: one to train on, one to validate, one to test",
            do="take a set with longer histories",
        )
    last = np.array([items[-2:] for items in kept])
    left_out = len(sequences) - len(kept)
    return LeaveOneOut([items[:-2] for items in kept], last[:, 0], last[:, 1], left_out)


def write_windows(parts: LeaveOneOut, folder: Path, gold: Gold) -> PinnedTable:
    """Write training and validation windows as a night's gold/training_sequences has them.

    A window holds up to ``gold.sequence_length`` + 1 events, cut from the newest event on;
    neighbouring windows share one event, so that every transition is a target once. A validation
    window is a user's newest events, of which the last one alone is a target.

    Args:
        parts: of ``split``.
        folder: gets the Parquet files, one row group each.
        gold: lengths of windows and buckets, rows and number of files.
    """
    longest = gold.sequence_length + 1
    train = [(window, 0) for items in parts.train for window in cut_windows(items, longest)]
    whole = [window[-longest:] for window in parts.histories("test")]
    validation = [(window, len(window) - 1) for window in whole]
    lengths = [*gold.length_buckets[:-1], longest]
    folder.mkdir(parents=True, exist_ok=True)
    files = [
        file
        for name, windows in ((TRAIN_SPLIT, train), (VALIDATION_SPLIT, validation))
        for file in _write_split(name, windows, lengths, folder, gold)
    ]
    return PinnedTable(schemas.GOLD_TRAINING_SEQUENCES.name, 0, tuple(files))


def cut_windows(items: IntArray, longest: int) -> Iterator[IntArray]:
    """Windows of up to ``longest`` events, newest first; each shares one with the next."""
    end = len(items)
    while end > 1:
        yield items[max(0, end - longest) : end]
        end = end - longest + 1


def _write_split(
    name: str,
    windows: list[tuple[IntArray, int]],
    lengths: Sequence[int],
    folder: Path,
    gold: Gold,
) -> Iterator[DataFile]:
    buckets = np.searchsorted(lengths, [len(window) for window, _ in windows])
    rows_a_file = min(gold.rows_per_row_group, -(-len(windows) // gold.min_row_groups))
    for bucket, length in enumerate(lengths):
        members = [windows[i] for i in np.flatnonzero(buckets == bucket)]
        for start in range(0, len(members), rows_a_file):
            chosen = members[start : start + rows_a_file]
            path = folder / f"{name}-{length:04d}-{start // rows_a_file:05d}.parquet"
            _write_file(path, chosen, length)
            yield DataFile(path.absolute().as_uri(), name, length, len(chosen))


def _write_file(path: Path, windows: Sequence[tuple[IntArray, int]], length: int) -> None:
    items: npt.NDArray[np.int32] = np.zeros((len(windows), length), dtype=np.int32)
    for row, (window, _) in zip(items, windows, strict=True):
        row[length - len(window) :] = window
    context = pa.array([inputs for _, inputs in windows], pa.int32())
    pq.write_table(pa.table({schemas.ITEMS: list(items), schemas.CONTEXT: context}), path)
