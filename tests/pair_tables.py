"""Tables of pairs in memory, planted so that a model of pairs has something to find."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recsys import schemas
from recsys.schemas import TRAIN_SPLIT, VALIDATION_SPLIT, DataFile, PinnedTable
from recsys.train.job import TrainingJob
from tests.training_tables import DAY, FIRST_DAY, Windows, make_job

Array = npt.NDArray[np.float64]
_FILES = 4


def make_pairs(
    users: Array, items: Array, labels: Array, validation: npt.NDArray[np.bool_]
) -> tuple[PinnedTable, Windows]:
    """A table of pairs in files of a quarter of each split; its columns by url."""
    files, contents = [], {}
    for split, of_split in ((TRAIN_SPLIT, ~validation), (VALIDATION_SPLIT, validation)):
        for number, places in enumerate(np.array_split(np.flatnonzero(of_split), _FILES)):
            url = f"memory:///{split}-{number}"
            files.append(DataFile(url, split, 1, len(places)))
            column = np.ones((len(places), 1), dtype=np.int64)
            contents[url] = {
                schemas.USER_IDX: users[places].astype(np.int32),
                schemas.ITEMS: items[places, None].astype(np.int32),
                schemas.EVENT_TYPES: column * schemas.EVENT_TYPE_CODES["rating"],
                schemas.EVENT_TIMES: column * FIRST_DAY * DAY,
                schemas.LABELS: labels[places, None],
                schemas.CONTEXT: np.zeros(len(places), dtype=np.int32),
            }
    return PinnedTable(schemas.GOLD_TRAINING_EXAMPLES.name, 3, tuple(files)), contents


def make_pair_job(
    folder: Path, table: PinnedTable, num_users: int, num_items: int, *overrides: str
) -> TrainingJob:
    """As ``make_job``, for ratings where ``overrides`` say nothing else."""
    pairs = ("model.kind=matrix_factorization", "train.per_rank_batch_size=64", "model.dims=8")
    job = make_job(folder, table, *pairs, *overrides)
    return dataclasses.replace(job, num_users=num_users, num_items=num_items)
