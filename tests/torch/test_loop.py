"""The training loop on one process: it learns, repeats itself, and stops early."""

import dataclasses
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.bundle import load_bundle
from recsys.schemas import PinnedTable
from recsys.train.batch import Batch, Recency, make_batch
from recsys.train.batch_stream import BatchStream
from recsys.train.communication import SingleProcess
from recsys.train.job import TrainingResult
from recsys.train.loop import Trainer, run_training
from recsys.train.objectives.next_item_ranks import HIT_RATE, LOSS, NDCG
from recsys.train.popularity import count_targets
from tests.training_tables import (
    RecordingTracker,
    Windows,
    assert_equal_weights,
    make_job,
    make_windows,
    memory_feed,
    train,
)

pytestmark = pytest.mark.torch


def test_it_learns_and_reports(table: tuple[PinnedTable, Windows], tmp_path: Path) -> None:
    job = make_job(
        tmp_path, table[0], "train.max_epochs=6", "model.dims=32", "train.learning_rate=0.02"
    )
    tracker = RecordingTracker()
    result, _ = train(job, table[1], tracker)
    assert result.metrics[HIT_RATE] > 0.9
    figures = [epoch[NDCG] for epoch in tracker.epochs]
    assert result.best_epoch == figures.index(max(figures))
    best = tracker.epochs[result.best_epoch]
    assert result.metrics == {k: v for k, v in best.items() if k != "train_loss"}
    assert (result.epochs, result.run_id) == (6, "run-1")
    assert result.global_steps == 6 * 15 == len(tracker.losses)
    targets = [
        ((columns["items"] > 0).sum(axis=1) - np.maximum(columns["context"], 1)).clip(0).sum()
        for file in table[0].files
        if file.split == "train"
        for columns in [table[1][file.url]]
    ]
    assert result.events == 6 * sum(targets)
    assert result.events_per_second > 0
    assert 0 <= result.wait_share <= 1
    assert TrainingResult.load(job.result_path) == tracker.finished == result
    info = load_bundle(job.bundle_dir)[1]
    assert (info.run_id, info.metrics, info.max_length) == ("run-1", result.metrics, 16)
    assert not list(Path(job.checkpoint_dir).glob("*.checkpoint"))


def test_same_seed_same_weights(table: tuple[PinnedTable, Windows], tmp_path: Path) -> None:
    first, weights = train(make_job(tmp_path / "a", table[0]), table[1], RecordingTracker())
    again, repeated = train(make_job(tmp_path / "b", table[0]), table[1], RecordingTracker())
    assert first.metrics == again.metrics
    assert_equal_weights(weights, repeated)
    job = make_job(tmp_path / "c", table[0], "train.seed=2")
    other, _ = train(job, table[1], RecordingTracker())
    assert other.metrics != first.metrics


def test_early_stopping_keeps_the_best_epoch(
    table: tuple[PinnedTable, Windows], tmp_path: Path
) -> None:
    job = make_job(tmp_path, table[0], "train.learning_rate=1e-9", "train.patience=2")
    tracker = RecordingTracker()
    # Weights that hardly move rank alike every time, so no epoch is better than the first.
    result, _ = train(
        dataclasses.replace(
            job,
            settings=job.settings.model_copy(
                update={"train": job.settings.train.model_copy(update={"max_epochs": 10})}
            ),
        ),
        table[1],
        tracker,
    )
    assert (result.best_epoch, result.epochs) == (0, 3)
    assert result.metrics[NDCG] == tracker.epochs[0][NDCG]


def next_items(batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
    return batch.choose_targets(horizon=1)


def test_targets_are_counted_with_their_weights() -> None:
    rows = np.array([[0, 3, 4, 4], [1, 2, 3, 4]], dtype=np.int32)
    plain = [make_batch(rows, None)]
    counts = count_targets(plain, next_items, 5, SingleProcess())
    assert counts.tolist() == [0, 0, 1, 1, 3, 0]
    recency = Recency(half_life_days=1.0, run_date=date(1970, 1, 2))
    hours = np.array([[0, 0, 48, 48], [0, 24, 24, 24]], dtype=np.int32)
    weighted = [make_batch(np.concatenate([rows, hours], axis=1), recency)]
    weights = np.array([0, 0, 0.5, 0.5, 2.5, 0])
    counts = count_targets(weighted, next_items, 5, SingleProcess())
    np.testing.assert_allclose(counts, weights / 3.5 * 5)


def test_starting_from_popularity_is_better_at_once(
    table: tuple[PinnedTable, Windows], tmp_path: Path
) -> None:
    rows = {url: columns["items"].copy() for url, columns in table[1].items()}
    for items in rows.values():
        items[items > 8] = 7  # one item is most of all events
    contents = {url: {**table[1][url], "items": items} for url, items in rows.items()}
    losses = []
    for setting in ("true", "false"):
        job = make_job(tmp_path / setting, table[0], f"train.start_from_popularity={setting}")
        tracker = RecordingTracker()
        train(job, contents, tracker)
        losses.append(tracker.losses[0])
    assert losses[0] < losses[1] - 1.0


class ListFeed:
    """Gives the same batches in every epoch."""

    def __init__(self, batches: list[np.ndarray]) -> None:
        self.batches = batches

    def steps_per_epoch(self, epoch: int) -> int:
        return len(self.batches)

    def epoch(self, epoch: int, skip: int = 0) -> BatchStream:
        return BatchStream(iter(self.batches[skip:]), prefetch=2)

    def validation(self) -> BatchStream:
        return BatchStream(iter(self.batches[:1]), prefetch=2)


def test_accumulated_gradients_are_those_of_one_large_batch(
    table: tuple[PinnedTable, Windows], tmp_path: Path
) -> None:
    dice = np.random.default_rng(0)
    large = [make_windows(rows, 9, dice)["items"].astype(np.int32) for rows in (24, 24, 20)]
    small = [rows[start : start + 8] for rows in large for start in range(0, len(rows), 8)]
    weights = []
    for name, batches, accumulation in (("large", large, 1), ("small", small, 3)):
        job = make_job(
            tmp_path / name,
            table[0],
            "model.dropout=0.0",
            f"train.gradient_accumulation={accumulation}",
        )
        feed = ListFeed(batches)
        trainer = Trainer(job, SingleProcess(), feed, RecordingTracker())  # type: ignore[arg-type]
        assert trainer.run().global_steps == 9
        weights.append(trainer.learner.model.item_embedding.weight)
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.positions=rotary", "model.feed_forward=swiglu", "model.gated_residuals=true"],
        ["model.positions=relative", "train.loss=sampled_softmax", "train.negatives=30"],
        ["model.time_gaps=true", "model.event_types=true", "train.recency_half_life_days=7"],
        # Binary losses stay long where they begin, then learn as well.
        ["train.loss=gbce", "train.negatives=30", "train.max_epochs=40", "train.schedule=constant",
         "train.patience=40", "train.learning_rate=0.005", "train.weight_average_decay=0.0"],
    ],
)  # fmt: skip
def test_other_blocks_and_losses_learn_too(
    table: tuple[PinnedTable, Windows], tmp_path: Path, overrides: list[str]
) -> None:
    basics = ["train.max_epochs=6", "model.dims=32", "train.learning_rate=0.02"]
    job = make_job(tmp_path, table[0], *basics, *overrides)
    result, _ = train(job, table[1], RecordingTracker())
    assert result.metrics[HIT_RATE] > 0.9


def test_bf16_trains_too(table: tuple[PinnedTable, Windows], tmp_path: Path) -> None:
    exact, _ = train(make_job(tmp_path / "a", table[0]), table[1], RecordingTracker())
    job = make_job(tmp_path / "b", table[0], "train.precision=bf16")
    rounded, _ = train(job, table[1], RecordingTracker())
    assert rounded.metrics != exact.metrics
    assert rounded.metrics[LOSS] == pytest.approx(exact.metrics[LOSS], rel=0.05)


class StopAfter:
    """A pruner that stops after an epoch (from 0) and remembers what it was told."""

    def __init__(self, last: int) -> None:
        self.last, self.told = last, dict[int, float]()

    def should_stop(self, epoch: int, value: float) -> bool:
        self.told[epoch] = value
        return epoch >= self.last


def test_a_pruned_training_ends_without_a_model(
    table: tuple[PinnedTable, Windows], tmp_path: Path
) -> None:
    job = make_job(tmp_path, table[0])
    tracker, pruner = RecordingTracker(), StopAfter(1)
    feed = memory_feed(table[1])
    result = run_training(job, SingleProcess(), tracker, feed, pruner)
    assert (result.pruned, result.epochs, result.bundle_dir) == (True, 2, "")
    assert pruner.told == {epoch: row[NDCG] for epoch, row in enumerate(tracker.epochs)}
    assert TrainingResult.load(job.result_path) == tracker.finished == result
    assert not Path(job.bundle_dir).exists()
    assert not list(Path(job.checkpoint_dir).glob("*.checkpoint"))
