"""The first of two trainings: on all behaviour, without labels, before the one of the task."""

from __future__ import annotations

import dataclasses

from recsys.config import derive_pretraining
from recsys.schemas import PinnedTable
from recsys.train.job import TrainingJob


def make_pretraining_job(job: TrainingJob, windows: PinnedTable) -> TrainingJob:
    """The training whose weights ``job`` starts from, in a folder of its own.

    Args:
        job: of the night's task, with ``train.pretraining.enabled``.
        windows: all behaviour: files of gold/training_sequences.
    """
    folder = f"{job.checkpoint_dir}-pretraining"
    return dataclasses.replace(
        job,
        settings=derive_pretraining(job.settings),
        table=windows,
        fingerprint=f"{job.fingerprint}-pretraining",
        checkpoint_dir=folder,
        bundle_dir=f"{folder}/bundle",
        tags={**job.tags, "training": "pretraining"},
    )
