"""Before the first step: all ranks are about to do the same."""

from __future__ import annotations

import hashlib

import torch

from recsys.errors import TrainingError
from recsys.train.communication import Communicator
from recsys.train.feed import Feed
from recsys.train.job import TrainingJob


def check_agreement(job: TrainingJob, feed: Feed, communicator: Communicator) -> None:
    """Compare the job and the number of steps of each rank with those of rank 0.

    Raises:
        TrainingError: on every rank, naming those that differ; they would leave the others waiting.
    """
    steps = feed.steps_per_epoch(0)
    plan = [job.fingerprint, job.table, job.settings.model, job.settings.train, steps]
    own = hashlib.sha256(repr(plan).encode()).hexdigest()
    differs = torch.zeros(communicator.size)
    differs[communicator.rank] = float(communicator.broadcast_object(own) != own)
    others = communicator.allreduce_sum(differs).nonzero().flatten().tolist()
    if others:
        raise TrainingError(
            f"rank {', '.join(map(str, others))} of {communicator.size} was started with other "
            f"files, settings or steps than rank 0 ({steps} steps in the first epoch here)",
            where=job.checkpoint_dir,
            do="see that all machines read the same job file, with the same release of recsys",
        )
