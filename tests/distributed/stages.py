"""What each rank of ``test_pipeline`` runs: ``stages.py FOLDER RANKS``, alone when RANKS is 1.

All ranks together always take the same global batches, whatever number of replicas and stages
they are: each replica takes every so many-th row of what one process would take whole.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from recsys.schemas import EVENT_TIMES
from recsys.train.batch_stream import BatchStream
from recsys.train.communication import Communicator, SingleProcess
from recsys.train.horovod_communication import HorovodCommunicator
from recsys.train.job import TrainingJob
from recsys.train.loop import Trainer
from recsys.train.probe import run_probe
from tests.training_tables import (
    RecordingTracker,
    feed_options,
    make_job,
    make_table,
    make_windows,
    pack_columns,
)

STEPS, ROWS, LENGTHS = 7, 18, (9, 9, 17)
SHAPE = ["model.blocks=5", "model.dropout=0", "train.negatives=30", "train.max_epochs=1"]
SAMPLED = ["train.loss=sampled_softmax", "train.negative_popularity=0.5"]
RICH = [
    "model.positions=relative",
    "model.time_gaps=true",
    "model.event_types=true",
    "model.gated_residuals=true",
    "train.gradient_accumulation=3",
    "train.gradient_clip_norm=0.05",
    "train.weight_decay=0.01",
]
KINDS = {
    "full": [*RICH, "train.exclude_own_items=true"],
    "sharded full": [*RICH, "train.loss=softmax", "train.exchange.tables=sharded"],
    "sampled": [*SAMPLED, "train.exchange.rows=dense"],
    "sharded": [*SAMPLED, "train.exchange.rows=dense", "train.exchange.tables=sharded"],
    "bf16": ["train.exchange.compression=bf16", "train.optimizer=sgd", "train.learning_rate=0.5"],
}
RUNS = {
    1: [(name, 1, None) for name in KINDS],
    2: [("full", 2, 2), ("bf16", 2, 3), ("sharded full", 2, 3)],
    4: [
        ("full", 2, 5),
        ("sharded", 2, 2),
        ("sampled", 4, 4),
        ("sharded full", 2, 2),
        ("sharded full", 4, 5),
    ],
}
"""By ranks: kind, stages and micro-batches."""
PROBED = ("bf16", "sharded full")


class DealtFeed:
    """Global batches of several lengths; rows are dealt to replicas, the last one to the first."""

    def __init__(self, job: TrainingJob, communicator: Communicator) -> None:
        self.options = feed_options(job, communicator)

    def steps_per_epoch(self, epoch: int) -> int:
        return STEPS

    def epoch(self, epoch: int, skip: int = 0) -> BatchStream:
        return self._stream(self._batches(epoch, skip))

    def validation(self) -> BatchStream:
        rows = self._draw(20, 9, np.random.default_rng(99))
        return self._stream(iter([rows[self.options.rank :: self.options.ranks]]))

    def _stream(self, batches: Iterator[np.ndarray]) -> BatchStream:
        return BatchStream(batches, prefetch=2, channels=self.options.channels)

    def _draw(self, rows: int, length: int, generator: np.random.Generator) -> np.ndarray:
        columns = make_windows(rows, length, generator)
        times = columns[EVENT_TIMES]
        # Gaps of many sizes: one for all adds the same to all logits, and has no gradient.
        times += np.where(times > 0, 5_000 * np.arange(length) ** 2, 0)
        return pack_columns(columns, self.options.channels)

    def _batches(self, epoch: int, skip: int) -> Iterator[np.ndarray]:
        generator = np.random.default_rng(epoch)
        reader, readers = self.options.reader, self.options.readers
        for step in range(STEPS):
            rows = self._draw(ROWS, LENGTHS[step % len(LENGTHS)], generator)
            if step == STEPS - 1:
                own = rows if reader == 0 else rows[:0]
            else:
                own = rows[reader::readers]
            if step >= skip:
                yield own


def split_over(job: TrainingJob, ranks: int, stages: int, micro: int | None) -> TrainingJob:
    """The job on so many ranks; its fingerprint stays."""
    train = job.settings.train
    parallel = train.parallel.model_copy(update={"pipeline_stages": stages, "micro_batches": micro})
    launcher = "horovodrun" if ranks > 1 else "single"
    changes = {"ranks": ranks, "launcher": launcher, "parallel": parallel}
    changed = job.settings.model_copy(update={"train": train.model_copy(update=changes)})
    return replace(job, settings=changed)


def train(folder: Path, ranks: int) -> None:
    communicator: Communicator = HorovodCommunicator(splits=True) if ranks > 1 else SingleProcess()
    torch.set_num_threads(1)
    table, _ = make_table(folder, files={9: [4], 17: [4]}, validation={9: [4]}, write=False)
    for name, stages, micro in RUNS[ranks]:
        where = folder / f"{name}-{ranks}-{stages}"
        job = split_over(make_job(where, table, *SHAPE, *KINDS[name]), ranks, stages, micro)
        tracker = RecordingTracker()
        feed = DealtFeed(job, communicator)
        trainer = Trainer(job, communicator, feed, tracker)  # type: ignore[arg-type]
        result = trainer.run()
        held = sum(weight.nbytes for weight in trainer.learner.model.parameters())
        sent = trainer.learner.sent_bytes
        content = {"metrics": result.metrics, "losses": tracker.losses, "held": held}
        content |= {"events": result.events, "sent": sent, "bundle": result.bundle_dir}
        content["sent_until_validation"] = trainer.state.sent_bytes
        if ranks == 2 and name in PROBED:
            probe = run_probe(job, communicator, feed)  # type: ignore[arg-type]
            content["probe"] = asdict(probe)
        (where / f"rank-{communicator.rank}.json").write_text(json.dumps(content))
    communicator.shutdown()


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]))
