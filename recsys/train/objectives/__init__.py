"""What trainings minimise: one module an objective, chosen by the settings."""

from __future__ import annotations

import torch

from recsys.train.job import TrainingJob
from recsys.train.objectives.contract import Objective, Wanted
from recsys.train.objectives.interaction_pairs import InteractionPairs
from recsys.train.objectives.next_item import NextItem
from recsys.train.objectives.rating_pairs import RatingPairs
from recsys.train.rows import Channels

__all__ = ["Objective", "Wanted", "choose_channels", "make_objective"]

_OBJECTIVES: dict[str, type[Objective]] = {
    "next_item": NextItem,
    "rating": RatingPairs,
    "interaction": InteractionPairs,
}


def make_objective(job: TrainingJob, device: torch.device) -> Objective:
    """The objective of a job (``Settings.task``)."""
    return _OBJECTIVES[job.settings.task](job, device)


def choose_channels(job: TrainingJob) -> Channels:
    """What the rows of the job's feed must hold."""
    return _OBJECTIVES[job.settings.task].channels(job)
