"""Tables split by rows over the ranks: memory of a rank falls as 1 / ranks."""

from __future__ import annotations

from recsys.train.communication import Communicator
from recsys.train.job import TrainingJob
from recsys.train.sharding.tables import SplitTables, Tables

__all__ = ["Tables", "make_tables"]


def make_tables(job: TrainingJob, communicator: Communicator) -> Tables:
    """Replicated or split, as ``train.exchange.tables`` says.

    Raises:
        TrainingError: the settings ask for what a split table can't do.
    """
    sharded = job.settings.train.exchange.tables == "sharded"
    return (SplitTables if sharded else Tables)(job, communicator)
