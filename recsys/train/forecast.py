"""What a training will take, before it begins: memory, traffic and seconds an epoch."""

from __future__ import annotations

from dataclasses import dataclass

from recsys.config import Train
from recsys.schemas import TRAIN_SPLIT
from recsys.train.job import TrainingJob
from recsys.train.plan import plan_epoch
from recsys.train.probe import Probe


@dataclass(frozen=True)
class Forecast:
    """Of one training as its settings stand.

    Attributes:
        ranks: processes.
        steps: of an epoch.
        memory_bytes: resident memory of a rank, at most.
        weights_bytes: of the model, or of a stage of it; ``copies`` of them are in memory:
            weights, gradients, the optimizer's moments, their average and the best ones, and what
            is held back.
        copies: see ``weights_bytes``.
        sent_bytes_per_step: payload that a rank sends.
        compute_seconds, exchange_seconds: of an epoch's training, validation left out.
    """

    ranks: int
    steps: int
    memory_bytes: int
    weights_bytes: int
    copies: int
    sent_bytes_per_step: int
    compute_seconds: float
    exchange_seconds: float

    @property
    def epoch_seconds(self) -> float:
        """Compute and exchange one after the other: the largest gradient, that of items which are
        input and output, is complete when the backward pass ends, so there is nothing to overlap.
        """
        return self.compute_seconds + self.exchange_seconds


def forecast(job: TrainingJob, probe: Probe) -> Forecast:
    """From what ``run_probe`` measured on this job's ranks to an epoch of all its row groups."""
    settings = job.settings.train
    files = [file for file in job.table.files if file.split == TRAIN_SPLIT]
    plans = plan_epoch(
        files,
        seed=settings.seed,
        epoch=0,
        ranks=settings.readers,
        batch_size=settings.per_rank_batch_size,
        batch_events=settings.per_rank_batch_events,
    )
    steps = -(-plans[0].steps // settings.gradient_accumulation)
    padded = max(sum(file.rows * file.bucket for file in plan.files) for plan in plans)
    compute = steps * probe.seconds_per_step + padded * probe.seconds_per_padded_event
    messages = 1 if settings.ranks > 1 and settings.exchange.average_every_steps == 1 else 0
    return Forecast(
        ranks=settings.ranks,
        steps=steps,
        # The best weights are first copied after the first validation.
        memory_bytes=probe.memory_bytes + probe.best_bytes,
        weights_bytes=probe.weights_bytes,
        copies=count_copies(job),
        sent_bytes_per_step=round(probe.sent_bytes_per_step),
        compute_seconds=compute,
        exchange_seconds=steps * (probe.exchange_seconds + messages * probe.latency_seconds),
    )


def count_copies(job: TrainingJob) -> int:
    """Arrays as large as the weights that a training keeps."""
    settings = job.settings.train
    holds_back = settings.exchange.compression in ("int8", "top_k", "power_sgd")
    return 4 + _count_moments(settings) + int(holds_back and settings.ranks > 1)


def _count_moments(settings: Train) -> int:
    return 2 if settings.optimizer != "sgd" else int(settings.momentum > 0)


def ring_seconds(payload: float, ranks: int, bandwidth: float, latency: float) -> float:
    """Seconds of an allreduce on a ring: 2 (n - 1) messages of payload / n bytes each.

    Args:
        payload: bytes that are summed.
        ranks: n.
        bandwidth: bytes a second that a rank can send.
        latency: seconds until a message of no bytes is there.

    Source: Patarasuk and Yuan 2009, section 4; Thakur et al. 2005, section 4.
    """
    return 2 * (ranks - 1) * (latency + payload / ranks / bandwidth)
