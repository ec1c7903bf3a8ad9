"""Small training tables, jobs and feeds for tests, with a pattern that a model can learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from recsys import schemas
from recsys.bundle import load_bundle
from recsys.config import load_settings
from recsys.schemas import TRAIN_SPLIT, VALIDATION_SPLIT, DataFile, PinnedTable
from recsys.train.batch import Recency
from recsys.train.communication import Communicator, SingleProcess
from recsys.train.feed import FeedOptions, InMemoryFeed
from recsys.train.job import TrainingJob, TrainingResult
from recsys.train.loop import FeedFactory, run_training
from recsys.train.objectives import choose_channels
from recsys.train.rows import Channels, Rows
from recsys.train.worker import find_user_codes

ITEMS = 40
DAY = 86_400
FIRST_DAY = 20_000  # since 1970: 2024-10-04
RUN_DATE = "2024-11-03"  # day 20,030
Windows = dict[str, dict[str, npt.NDArray[np.int64]]]


def make_table(
    folder: Path,
    *,
    files: Mapping[int, Sequence[int]],
    validation: Mapping[int, Sequence[int]],
    seed: int = 0,
    write: bool = True,
) -> tuple[PinnedTable, Windows]:
    """A pinned table: bucket to rows of each file. Returns it with the columns by url.

    Every window walks the catalogue with a step of its own, so the next item can be learned.
    """
    generator = np.random.default_rng(seed)
    found, contents = [], {}
    folder.mkdir(parents=True, exist_ok=True)
    for split, buckets in ((TRAIN_SPLIT, files), (VALIDATION_SPLIT, validation)):
        for bucket, counts in buckets.items():
            for rows in counts:
                # The name says nothing about the order, as in a Delta table.
                path = folder / f"part-{generator.integers(1 << 60):x}.parquet"
                contents[path.as_uri()] = columns = make_windows(rows, bucket, generator)
                if write:
                    lists = {name: pa.array(list(values)) for name, values in columns.items()}
                    pq.write_table(pa.table(lists), path)
                found.append(DataFile(path.as_uri(), split, bucket, rows))
    return PinnedTable(schemas.GOLD_TRAINING_SEQUENCES.name, 3, tuple(found)), contents


def make_windows(
    rows: int, bucket: int, generator: np.random.Generator
) -> dict[str, npt.NDArray[np.int64]]:
    """Columns items, context and event_times of ``rows`` windows, zeros in front."""
    start, step = generator.integers(0, ITEMS, (rows, 1)), generator.integers(1, 4, (rows, 1))
    items = (start + step * np.arange(bucket)) % ITEMS + 1
    lengths = generator.integers(min(3, bucket), bucket + 1, (rows, 1))
    padding = np.arange(bucket) < bucket - lengths
    times = (FIRST_DAY + generator.integers(0, 30, (rows, 1)) + np.zeros((1, bucket), int)) * DAY
    return {
        schemas.ITEMS: np.where(padding, 0, items).astype(np.int32),
        schemas.CONTEXT: generator.integers(0, 3, rows).astype(np.int32),
        schemas.EVENT_TIMES: np.where(padding, 0, times).astype(np.int64),
        schemas.EVENT_TYPES: np.where(padding, 0, 1 + items % 5).astype(np.int32),
    }


def pack_columns(columns: dict[str, npt.NDArray[np.int64]], channels: Channels) -> Rows:
    """The rows that a feed makes of a file's columns."""
    return channels.pack(columns, columns[schemas.CONTEXT])


def memory_feed(contents: Windows) -> FeedFactory:
    """A feed factory for the loop that needs no Petastorm."""

    def make(job: TrainingJob, communicator: Communicator) -> InMemoryFeed:
        options = feed_options(job, communicator)
        rows = {url: pack_columns(found, options.channels) for url, found in contents.items()}
        return InMemoryFeed(job.table, rows, options)

    return make


def feed_options(
    job: TrainingJob, communicator: Communicator, recency: Recency | None = None
) -> FeedOptions:
    """Options as the settings of ``job`` say."""
    settings = job.settings
    return FeedOptions(
        seed=settings.train.seed,
        rank=communicator.rank,
        ranks=communicator.size,
        batch_size=settings.train.per_rank_batch_size,
        shuffle_rows=settings.feed.shuffle_buffer_rows,
        prefetch=settings.feed.prefetch_batches,
        recency=recency,
        batch_events=settings.train.per_rank_batch_events,
        channels=choose_channels(job),
        user_codes=find_user_codes(job),
        stages=settings.train.parallel.pipeline_stages,
    )


def make_job(
    folder: Path, table: PinnedTable, *overrides: str, uri: str | None = None
) -> TrainingJob:
    """A job with a tiny model that trains in a second or two."""
    small = [
        "train.launcher=single",
        "train.ranks=1",
        "train.per_rank_batch_size=16",
        "train.max_epochs=3",
        "train.learning_rate=0.005",
        "train.warmup_steps=5",
        "train.checkpoint_every_steps=7",
        "train.target_horizon=1",
        "train.recency_half_life_days=null",
        "model.dims=16",
        "model.heads=2",
        "model.blocks=1",
        "model.dropout=0.1",
    ]
    settings = load_settings(None, [*small, *overrides])
    return TrainingJob(
        settings=settings,
        run_date=RUN_DATE,
        table=table,
        num_items=ITEMS,
        fingerprint="0123456789abcdef",
        checkpoint_dir=str(folder / "checkpoints"),
        bundle_dir=str(folder / "bundle"),
        tracking_uri=uri,
        table_versions={"silver/items": 5},
        tags={"code_commit": "c0ffee"},
    )


@dataclass
class RecordingTracker:
    """Keeps what the loop reports; can fail at a step, as a lost server would."""

    fail_at: int | None = None
    losses: dict[int, float] = field(default_factory=dict)
    epochs: list[dict[str, float]] = field(default_factory=list)
    started_with: str | None = None
    finished: TrainingResult | None = None

    def start(self, run_id: str) -> str:
        self.started_with = run_id
        return run_id or "run-1"

    def log_steps(self, steps: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        self.losses.update({step: figures["loss"] for step, figures in steps})
        if self.fail_at is not None and max(self.losses) >= self.fail_at:
            raise ConnectionError("the server is gone")

    def log_epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        self.epochs.append(dict(figures))

    def finish(self, result: TrainingResult, history: Sequence[Mapping[str, float]]) -> None:
        self.finished = result


def train(
    job: TrainingJob, contents: Windows, tracker: RecordingTracker
) -> tuple[TrainingResult, dict[str, torch.Tensor]]:
    """Train in this process; the result, and the weights that were published."""
    result = run_training(job, SingleProcess(), tracker, memory_feed(contents))
    return result, load_bundle(result.bundle_dir)[0].state_dict()


def assert_equal_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
