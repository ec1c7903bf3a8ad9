"""What each rank of ``test_ranks`` runs: ``two_ranks.py FOLDER RANKS``, alone when RANKS is 1.

All ranks together always take the same global batches: with two ranks each takes every other
row of the batch that one rank would take whole.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from recsys import schemas
from recsys.train.batch_stream import BatchStream
from recsys.train.communication import Communicator, SingleProcess
from recsys.train.horovod_communication import HorovodCommunicator
from recsys.train.job import TrainingJob
from recsys.train.loop import Trainer
from recsys.train.objectives import choose_channels
from tests.training_tables import RecordingTracker, make_job, make_table, make_windows, pack_columns

STEPS, ROWS, USERS = 12, 16, 30
KINDS = {
    "full": ["train.exclude_own_items=true"],
    "sampled": ["train.loss=sampled_softmax", "train.negative_popularity=0.5"],
    "sparse": [
        "train.loss=sampled_softmax",
        "train.exchange.rows=sparse",
        "train.weight_decay=0.01",
    ],
    "plain": [],
    "sharded": ["train.exchange.tables=sharded"],
    "sharded_sampled": [
        "train.weight_decay=0.01",
        "train.loss=sampled_softmax",
        "train.exchange.rows=sparse",
        "train.exchange.tables=sharded",
    ],
    "accumulated": ["train.gradient_accumulation=5"],
    "fp16": ["train.exchange.compression=fp16"],
    "bf16": ["train.exchange.compression=bf16", "train.gradient_accumulation=5"],
    "int8": ["train.exchange.compression=int8"],
    "top_k": ["train.exchange.compression=top_k", "train.exchange.top_k_share=1.0"],
    "power_sgd": ["train.exchange.compression=power_sgd", "train.exchange.power_sgd_rank=64"],
    "two_tower": ["model.kind=two_tower"],
    "ratings": ["model.kind=matrix_factorization", "train.factor_regularization=0.01"],
    "ratings_sparse": ["model.kind=matrix_factorization", "train.exchange.rows=sparse"],
    "network": ["model.kind=collaborative_network", "model.hidden=16"],
    "local": ["train.exchange.average_every_steps=4", "train.exchange.average_delay_steps=2"],
}
EXACT = (
    "full",
    "sampled",
    "sparse",
    "sharded",
    "sharded_sampled",
    "accumulated",
    "top_k",
    "power_sgd",
    "two_tower",
    "ratings",
    "ratings_sparse",
)
"""What sums gradients without loss: all entries, or matrices of full rank."""


class SplitFeed:
    """Global batches of one length; rows are dealt to ranks, the last one to rank 0 alone."""

    def __init__(self, communicator: Communicator, job: TrainingJob) -> None:
        self.rank, self.size = communicator.rank, communicator.size
        self.channels = choose_channels(job)

    def steps_per_epoch(self, epoch: int) -> int:
        return STEPS

    def epoch(self, epoch: int, skip: int = 0) -> BatchStream:
        return BatchStream(self._batches(epoch, skip), 2, channels=self.channels)

    def validation(self) -> BatchStream:
        rows = self._draw(20, np.random.default_rng(99))
        return BatchStream(iter([rows[self.rank :: self.size]]), 2, channels=self.channels)

    def _draw(self, rows: int, generator: np.random.Generator) -> np.ndarray:
        if not self.channels.user_idx:
            return make_windows(rows, 9, generator)[schemas.ITEMS]
        columns = make_windows(rows, 1, generator)
        columns[schemas.USER_IDX] = generator.integers(1, USERS + 1, rows).astype(np.int32)
        columns[schemas.LABELS] = generator.integers(1, 6, (rows, 1)).astype(float)
        return pack_columns(columns, self.channels)

    def _batches(self, epoch: int, skip: int) -> Iterator[np.ndarray]:
        generator = np.random.default_rng(epoch)
        for step in range(STEPS):
            rows = self._draw(ROWS, generator)
            if step == STEPS - 1:
                own = rows if self.rank == 0 else rows[:0]
            else:
                own = rows[self.rank :: self.size]
            if step >= skip:
                yield own


class OnlyRankZero:
    """Ends the training after its second epoch; no other rank may ask."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def should_stop(self, epoch: int, value: float) -> bool:
        assert self.rank == 0
        return epoch == 1


def train_pruned(folder: Path, communicator: Communicator) -> None:
    table, _ = make_table(folder, files={9: [4]}, validation={9: [4]}, write=False)
    job = make_job(folder / f"pruned-{communicator.size}", table)
    feed, pruner = SplitFeed(communicator, job), OnlyRankZero(communicator.rank)
    trainer = Trainer(job, communicator, feed, RecordingTracker(), pruner)  # type: ignore[arg-type]
    result = trainer.run()
    path = folder / f"pruned-{communicator.size}-rank-{communicator.rank}.json"
    path.write_text(json.dumps([result.pruned, result.epochs, Path(job.bundle_dir).exists()]))


def wait_for_rank_one(folder: Path, communicator: Communicator) -> None:
    """Rank 1 comes later; how much of a processor rank 0 takes while it waits."""
    communicator.barrier()
    if communicator.rank == 1:
        time.sleep(1.5)
    started, used = time.monotonic(), time.thread_time()
    communicator.barrier()
    share = (time.thread_time() - used) / (time.monotonic() - started)
    path = folder / f"waiting-{communicator.size}-rank-{communicator.rank}.json"
    path.write_text(json.dumps(share))


def read_weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The average, with the rows of all ranks."""
    weights = trainer.learner.average.state_dict()
    size = trainer.communicator.size
    table = getattr(trainer.learner.average, "item_embedding", None)
    if getattr(table, "sharded", False):
        rows = trainer.communicator.start_allgather(table.weight.detach(), "whole")()
        weights["item_embedding.weight"] = whole = torch.empty_like(rows)
        for rank, part in enumerate(rows.split([table.owners.count_of(r) for r in range(size)])):
            whole[rank::size] = part
    return weights


def train(folder: Path, ranks: int) -> None:
    communicator: Communicator = HorovodCommunicator() if ranks > 1 else SingleProcess()
    torch.set_num_threads(1)
    table, _ = make_table(folder, files={9: [4]}, validation={9: [4]}, write=False)
    for name, overrides in KINDS.items():
        job: TrainingJob = make_job(
            folder / f"{name}-{ranks}",
            table,
            *overrides,
            "train.negatives=30",
            "train.checkpoint_every_steps=1000",
        )
        job = dataclasses.replace(job, num_users=USERS)
        settings = job.settings.model_copy(
            update={"model": job.settings.model.model_copy(update={"dropout": 0.0})}
        )
        object.__setattr__(job, "settings", settings)
        tracker = RecordingTracker()
        trainer = Trainer(job, communicator, SplitFeed(communicator, job), tracker)  # type: ignore[arg-type]
        result = trainer.run()
        weights = {key: value.tolist() for key, value in read_weights(trainer).items()}
        content = {"metrics": result.metrics, "losses": tracker.losses, "weights": weights}
        path = folder / f"{name}-{ranks}-rank-{communicator.rank}.json"
        content |= {"events": result.events, "bytes": result.sent_bytes_per_step}
        path.write_text(json.dumps(content))
    train_pruned(folder, communicator)
    wait_for_rank_one(folder, communicator)
    communicator.shutdown()


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]))
