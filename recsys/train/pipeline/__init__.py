"""A transformer whose blocks are split over ranks; and what makes either kind of learner."""

from __future__ import annotations

from recsys.train.communication import Communicator
from recsys.train.job import TrainingJob
from recsys.train.learner import Learner

__all__ = ["make_learner"]


def make_learner(job: TrainingJob, communicator: Communicator) -> Learner:
    """Of whole models, or of a stage, as ``train.parallel`` says.

    Raises:
        TrainingError: the settings ask for what the data does not allow.
    """
    if job.settings.train.parallel.pipeline_stages == 1:
        return Learner(job, communicator)
    # Here, as torch.distributed takes a second to import.
    from recsys.train.pipeline.learner import PipelineLearner

    return PipelineLearner(job, communicator)
