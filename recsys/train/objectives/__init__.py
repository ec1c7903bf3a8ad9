"""What trainings minimise: one module an objective, chosen by the settings."""

from __future__ import annotations

import torch

from recsys.config import Settings
from recsys.train.job import TrainingJob
from recsys.train.objectives.clicks import ClickRanking
from recsys.train.objectives.contract import Objective, Wanted
from recsys.train.objectives.interaction_pairs import InteractionPairs
from recsys.train.objectives.next_item import NextItem
from recsys.train.objectives.next_label import Click, Rating
from recsys.train.objectives.pretraining import Pretraining
from recsys.train.objectives.purchase import Purchase
from recsys.train.objectives.rating_pairs import RatingPairs
from recsys.train.rows import Channels

__all__ = ["Objective", "Wanted", "choose_channels", "find_objective", "make_objective"]

_OBJECTIVES: dict[tuple[str, str], type[Objective]] = {
    ("transformer", "next_item"): NextItem,
    ("transformer", "pretraining"): Pretraining,
    ("transformer", "purchase"): Purchase,
    ("transformer", "click"): Click,
    ("transformer", "rating"): Rating,
    ("two_tower", "next_item"): NextItem,
    ("matrix_factorization", "rating"): RatingPairs,
    ("collaborative_network", "interaction"): InteractionPairs,
    ("click_ranker", "click_ranking"): ClickRanking,
}
"""By kind of model and task, as ``config.TASKS`` has them."""


def find_objective(settings: Settings) -> type[Objective]:
    """The objective's class: what it is judged by is known without a job."""
    return _OBJECTIVES[settings.model.kind, settings.task]


def make_objective(job: TrainingJob, device: torch.device) -> Objective:
    """The objective of a job (``Settings.task``)."""
    return find_objective(job.settings)(job, device)


def choose_channels(job: TrainingJob) -> Channels:
    """What the rows of the job's feed must hold."""
    return find_objective(job.settings).channels(job)
