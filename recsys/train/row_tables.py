"""Which tables get sparse gradients: those of which a step touches few rows."""

from __future__ import annotations

import logging

from recsys.errors import TrainingError
from recsys.models import Recommender
from recsys.models.sparse_tables import set_sparse
from recsys.train.job import TrainingJob

log = logging.getLogger(__name__)

AUTO_SHARE = 0.1
"""Share of a table's rows that a step may touch at most for ``train.exchange.rows`` auto to make
its gradient sparse: picking rows costs more a row than passing over all of them."""


def use_sparse_rows(model: Recommender, job: TrainingJob, touched: int | None) -> None:
    """Make gradients of the model's tables sparse where ``train.exchange.rows`` wants it.

    Args:
        model: before its optimizer is made.
        job: to be trained.
        touched: rows of a table that a step of all ranks touches at most; None: all.

    Raises:
        TrainingError: the settings ask for sparse gradients where a step touches all rows.
    """
    settings = job.settings
    exchange = settings.train.exchange
    # Both ends of a pipeline use the item table, and their gradients meet in it whole.
    if exchange.rows == "dense" or settings.train.parallel.pipeline_stages > 1:
        return
    if exchange.rows == "sparse":
        if touched is None or not model.row_tables:
            raise _refuse(job)
        chosen = list(model.row_tables)
    else:
        few = 0 if exchange.average_every_steps > 1 or touched is None else touched
        chosen = [
            name
            for name in model.row_tables
            if 0 < few <= AUTO_SHARE * len(model.get_parameter(f"{name}.weight"))
        ]
    set_sparse(model, chosen)
    if chosen:
        log.info("sparse gradients: %s", ", ".join(chosen))


def _refuse(job: TrainingJob) -> TrainingError:
    train = job.settings.train
    return TrainingError(
        f"train.exchange.rows=sparse, but a step of model.kind={job.settings.model.kind}, "
        f"train.task={train.task}, train.loss={train.loss} with {job.num_items} items touches "
        "all rows of the item table",
        do="set train.loss=sampled_softmax or gbce, or train.exchange.rows=auto",
    )
