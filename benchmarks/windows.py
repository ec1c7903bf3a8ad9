"""Synthetic training windows for the training benchmarks: full length, Zipf-popular items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from recsys import schemas
from recsys.config import load_settings
from recsys.schemas import DataFile, PinnedTable
from recsys.train.job import TrainingJob

Windows = dict[str, npt.NDArray[np.int32]]
_ROWS_PER_FILE = 4096


def make_windows(users: int, items: int, length: int, folder: Path) -> tuple[PinnedTable, Windows]:
    """One window of ``length`` + 1 items a user; url to int32 [rows, length + 1].

    Half of the items follow from the one before (so that the loss can fall), half are Zipf draws.
    """
    generator = np.random.default_rng(1)
    shares = 1.0 / np.arange(1, items + 1)
    drawn = generator.choice(items, (users, length + 1), p=shares / shares.sum())
    follow = generator.random((users, length + 1)) < 0.5
    for place in range(1, length + 1):
        after = (drawn[:, place - 1] + 1) % items
        drawn[:, place] = np.where(follow[:, place], after, drawn[:, place])
    windows, files, contents = (drawn + 1).astype(np.int32), [], {}
    for number, at in enumerate(range(0, users, _ROWS_PER_FILE)):
        rows = windows[at : at + _ROWS_PER_FILE]
        url = (folder / f"part-{number:05d}.parquet").absolute().as_uri()
        split = schemas.VALIDATION_SPLIT if number == 0 else schemas.TRAIN_SPLIT
        files.append(DataFile(url, split, length + 1, len(rows)))
        contents[url] = rows
    return PinnedTable(schemas.GOLD_TRAINING_SEQUENCES.name, 0, tuple(files)), contents


def make_job(table: PinnedTable, items: int, folder: Path, *overrides: str) -> TrainingJob:
    """A job of one process, without tracking, without weights of age."""
    single = ["train.launcher=single", "train.ranks=1", "train.recency_half_life_days=null"]
    settings = load_settings(None, [*single, *overrides])
    return TrainingJob(
        settings, "2026-01-01", table, items, folder.name, str(folder / "checkpoints"),
        str(folder / "bundle"),
    )  # fmt: skip
