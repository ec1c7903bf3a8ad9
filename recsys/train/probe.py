"""A few steps of a training, timed on its own ranks: what a forecast reckons with."""

from __future__ import annotations

import dataclasses
import json
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from recsys.files import write_atomically
from recsys.train.batch import group_batches
from recsys.train.communication import Communicator, SingleProcess
from recsys.train.exchange import make_exchange
from recsys.train.feed import Feed
from recsys.train.job import TrainingJob
from recsys.train.loop import Trainer
from recsys.train.optimization import make_optimizer
from recsys.train.tracking import NullTracker

WARM_UP_STEPS, STEPS, SECONDS = 5, 200, 20.0
"""Steps that are not timed; then at most so many, and no more than so many seconds."""
SPLIT_STEPS = 30
"""The same for split tables, however long they take."""
_EXCHANGES = 8
_KIB = 1024


@dataclass(frozen=True)
class Probe:
    """What ranks measured; of several ranks the slowest, or largest.

    Attributes:
        seconds_per_step, seconds_per_padded_event: of a step without exchange, a straight line
            through the steps' sizes.
        exchange_seconds: of a step: the gradients' or weights', as the settings say.
        latency_seconds: of a message of a few bytes, of which a step has one.
        sent_bytes_per_step: payload of a rank.
        memory_bytes: largest resident memory of a rank.
        weights_bytes: of the model, or of a stage of it.
        best_bytes: of the best weights, which a rank keeps after the first validation.
        steps: timed.
    """

    seconds_per_step: float
    seconds_per_padded_event: float
    exchange_seconds: float
    latency_seconds: float
    sent_bytes_per_step: float
    memory_bytes: int
    weights_bytes: int
    best_bytes: int
    steps: int

    def save(self, path: Path) -> None:
        """Write the figures as JSON."""
        write_atomically(path, json.dumps(dataclasses.asdict(self)).encode())

    @classmethod
    def load(cls, path: Path) -> Probe:
        """Inverse of ``save``."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def run_probe(job: TrainingJob, communicator: Communicator, feed: Feed) -> Probe:
    """Time steps, exchanges and messages on every rank; all ranks return the same.

    Nothing is written or tracked; the weights that it trains are thrown away.
    """
    # A step of split tables, or of stages, is one of all ranks: its exchange can't be told from its
    # compute.
    train = job.settings.train
    split = train.exchange.tables == "sharded" or train.parallel.pipeline_stages > 1
    with tempfile.TemporaryDirectory(prefix="recsys-probe-") as folder:
        scratch = dataclasses.replace(job, tracking_uri=None, checkpoint_dir=folder)
        taking_part = communicator if split else SingleProcess()
        trainer = Trainer(scratch, taking_part, feed, NullTracker())
        learner = trainer.learner
        whole = _count_bytes(learner.model)
        before = learner.sent_bytes
        sizes, seconds = _time_steps(trainer, feed, SPLIT_STEPS if split else STEPS)
    slope, constant = _fit(sizes, seconds)
    weights = _count_bytes(learner.model)
    if split:
        steps = len(sizes) + WARM_UP_STEPS
        exchange, sent = 0.0, (learner.sent_bytes - before) / max(1, steps)
        learner.agree()  # as before a validation, for its memory
        learner.close()
    else:
        exchange, sent = _time_exchange(learner.model, job, communicator)
    figures = {
        "seconds_per_step": constant,
        "seconds_per_padded_event": slope,
        "exchange_seconds": exchange,
        "latency_seconds": _time_message(communicator),
        "sent_bytes_per_step": sent,
        "memory_bytes": float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB),
        "weights_bytes": float(weights),
        "best_bytes": float(whole),
    }
    largest = _largest(communicator, list(figures.values()))
    found: dict[str, Any] = dict(zip(figures, largest, strict=True))
    for name in ("memory_bytes", "weights_bytes", "best_bytes"):
        found[name] = int(found[name])
    return Probe(**found, steps=len(sizes))


def _count_bytes(model: nn.Module) -> int:
    return sum(weight.nbytes for weight in model.parameters())


def _time_steps(trainer: Trainer, feed: Feed, most: int) -> tuple[list[int], list[float]]:
    """Padded events and seconds of steps, at the same time as the other ranks'.

    Ranks that step together must end together, so the clock ends those alone that don't.
    """
    sizes, seconds, alone = [], [], trainer.communicator.size == 1
    started = time.perf_counter()
    trainer.learner.model.train()
    with feed.epoch(0) as batches:
        groups = group_batches(batches, trainer.settings.gradient_accumulation)
        for number, group in enumerate(groups):
            before = time.perf_counter()
            trainer.train_step(group)
            if trainer.learner.device.type == "cuda":
                torch.cuda.synchronize()
            if number >= WARM_UP_STEPS:
                sizes.append(sum(batch.items.numel() for batch in group))
                seconds.append(time.perf_counter() - before)
            late = alone and sizes and time.perf_counter() - started > SECONDS
            if len(sizes) >= most or late:
                break
    return sizes, seconds


def _fit(sizes: list[int], seconds: list[float]) -> tuple[float, float]:
    """Slope and constant; where steps are all of a size, or too few, a mean through the origin."""
    if not sizes:
        return 0.0, 0.0
    slope, constant = 0.0, -1.0
    if len(set(sizes)) > 1:
        slope, constant = map(float, np.polyfit(sizes, seconds, 1))
    if constant < 0.0 or slope < 0.0:
        return float(np.sum(seconds)) / max(1, sum(sizes)), 0.0
    return slope, constant


def _time_exchange(
    model: nn.Module, job: TrainingJob, communicator: Communicator
) -> tuple[float, float]:
    """Seconds and sent bytes of a step's exchange, of gradients as large as the last step's."""
    settings = job.settings.train
    exchange = make_exchange(settings.exchange, communicator, model)
    optimizer = exchange.attach(make_optimizer(model, settings), model, 1)
    rounds = max(_EXCHANGES, settings.exchange.average_every_steps)
    rounds -= rounds % settings.exchange.average_every_steps
    weights = [w for w in model.parameters() if w.grad is not None and w.grad.is_sparse]
    touched = [weight.grad for weight in weights]
    communicator.barrier()
    for number in range(-1, rounds):
        if number == 0:
            started, before = time.perf_counter(), exchange.sent_bytes
        for weight, own in zip(weights, touched, strict=True):  # not the rows of all ranks
            weight.grad = own
        with exchange.reduced(optimizer):
            exchange.after_step(model, number)
    seconds, sent = time.perf_counter() - started, exchange.sent_bytes - before
    exchange.agree([])  # what is still on its way; ranks agree once an epoch, not once a step
    return seconds / rounds, sent / rounds


def _time_message(communicator: Communicator) -> float:
    value = torch.zeros(1, dtype=torch.float64)
    communicator.barrier()
    started = time.perf_counter()
    for _ in range(_EXCHANGES):
        communicator.allreduce_sum(value)
    return (time.perf_counter() - started) / _EXCHANGES


def _largest(communicator: Communicator, values: list[float]) -> list[float]:
    """Of each value the largest of all ranks."""
    own = torch.zeros(communicator.size, len(values), dtype=torch.float64)
    own[communicator.rank] = torch.tensor(values, dtype=torch.float64)
    largest: list[float] = communicator.allreduce_sum(own).amax(dim=0).tolist()
    return largest
