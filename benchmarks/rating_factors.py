"""Test RMSE of matrix factorization on ratings, beside biases alone and the mean.

    python -m benchmarks.rating_factors FILE [section.key=value ...] [--seeds 1 2 3]

FILE holds a rating a line: user, item, rating, seconds, by tabs (MovieLens 100K's u.data). A fifth
of them, drawn evenly whatever their time, is the test; a twentieth of the rest chooses the best
epoch. The model is trained by the loop of a night, from memory. Biases alone are fitted to all that
is no test. Predictions are clipped to the scale. Prints a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.machine import describe_machine
from recsys import schemas
from recsys.bundle import load_bundle
from recsys.config import load_settings
from recsys.schemas import DataFile, PinnedTable
from recsys.train.communication import Communicator, SingleProcess
from recsys.train.feed import FeedOptions, InMemoryFeed
from recsys.train.job import TrainingJob
from recsys.train.loop import FeedFactory, run_training
from recsys.train.objectives import choose_channels
from recsys.train.objectives.rating_pairs import HIGHEST, LOWEST
from recsys.train.rows import Rows
from recsys.train.tracking import NullTracker

SETTINGS = (
    "model.kind=matrix_factorization", "model.dims=64", "train.launcher=single", "train.ranks=1",
    "train.per_rank_batch_size=256", "train.max_epochs=40", "train.patience=3",
    "train.learning_rate=0.003", "train.factor_regularization=0.05",
    "train.recency_half_life_days=null", "train.start_from_popularity=false",
)  # fmt: skip
TEST_SHARE, VALIDATION_SHARE = 0.2, 0.05
USER_PENALTY, ITEM_PENALTY, SWEEPS = 15.0, 10.0, 10
Array = npt.NDArray[np.float64]


def main() -> None:
    """Split, train and test by seed; print the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    options = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    ratings = _read(options.file)
    runs = [_measure(ratings, seed, options.overrides) for seed in options.seeds]
    figures = {
        name: {
            "mean": round(statistics.mean(run[name] for run in runs), 4),
            "runs": [round(run[name], 4) for run in runs],
        }
        for name in runs[0]
    }
    print(json.dumps({"machine": describe_machine(), "ratings": len(ratings), **figures}))


def _read(path: Path) -> Array:
    """Columns user, item (both from 1, without gaps) and rating."""
    ratings = np.loadtxt(path, delimiter="\t", usecols=(0, 1, 2))
    for column in (0, 1):
        ratings[:, column] = np.unique(ratings[:, column], return_inverse=True)[1] + 1
    return ratings


def _measure(ratings: Array, seed: int, overrides: list[str]) -> dict[str, float]:
    dice = np.random.default_rng(seed)
    tested = dice.random(len(ratings)) < TEST_SHARE
    test, known = ratings[tested], ratings[~tested]
    chooses = dice.random(len(known)) < VALIDATION_SHARE
    sizes = ratings.max(axis=0).astype(int)
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as name:
        splits = {
            schemas.VALIDATION_SPLIT: known[chooses],
            schemas.TRAIN_SPLIT: known[~chooses],
        }
        job = _make_job(Path(name), splits, sizes, [f"train.seed={seed}", *overrides])
        started = time.perf_counter()
        result = run_training(job, SingleProcess(), NullTracker(), _make_feed(job, splits))
        seconds = time.perf_counter() - started
        model = load_bundle(job.bundle_dir)[0]
        users, items = torch.from_numpy(test[:, :2].astype(np.int64)).T
        with torch.inference_mode():
            predicted = model(users, items).double().numpy()
    return {
        "mean_rmse": _rmse(np.full(len(test), known[:, 2].mean()), test),
        "biases_rmse": _rmse(_predict_biases(known, test, sizes), test),
        "factors_rmse": _rmse(predicted, test),
        "validation_rmse": result.metrics["validation_rmse"],
        "epochs": float(result.epochs),
        "seconds": seconds,
    }


def _make_job(
    folder: Path, splits: dict[str, Array], sizes: npt.NDArray[np.int64], overrides: list[str]
) -> TrainingJob:
    files = tuple(DataFile(split, split, 1, len(rows)) for split, rows in splits.items())
    table = PinnedTable(schemas.GOLD_TRAINING_EXAMPLES.name, 0, files)
    return TrainingJob(
        load_settings(None, [*SETTINGS, *overrides]), "2026-01-01", table, int(sizes[1]),
        "ratings", str(folder / "checkpoints"), str(folder / "bundle"), num_users=int(sizes[0]),
    )  # fmt: skip


def _make_feed(job: TrainingJob, splits: dict[str, Array]) -> FeedFactory:
    channels = choose_channels(job)

    def rows_of(ratings: Array) -> Rows:
        columns: dict[str, Array] = {
            schemas.USER_IDX: ratings[:, 0],
            schemas.ITEMS: ratings[:, 1:2].astype(np.int32),
            schemas.LABELS: ratings[:, 2:3],
        }
        return channels.pack(columns, np.zeros(len(ratings), dtype=np.int32))

    def make(job: TrainingJob, _: Communicator) -> InMemoryFeed:
        train = job.settings.train
        options = FeedOptions(
            train.seed, 0, 1, train.per_rank_batch_size, shuffle_rows=1 << 20, prefetch=8,
            channels=channels,
        )  # fmt: skip
        return InMemoryFeed(job.table, {s: rows_of(r) for s, r in splits.items()}, options)

    return make


def _predict_biases(known: Array, test: Array, sizes: npt.NDArray[np.int64]) -> Array:
    """Mean and both biases, by alternating least squares with shrinkage.

    Source: Koren 2010, "Factor in the Neighbors", section 2.1.
    """
    users, items = known[:, 0].astype(int), known[:, 1].astype(int)
    mean = known[:, 2].mean()
    of_user, of_item = np.zeros(sizes[0] + 1), np.zeros(sizes[1] + 1)
    for _ in range(SWEEPS):
        for mine, own, others, other, penalty in (
            (items, of_item, users, of_user, ITEM_PENALTY),
            (users, of_user, items, of_item, USER_PENALTY),
        ):
            left = known[:, 2] - mean - other[others]
            sums = np.bincount(mine, weights=left, minlength=len(own))
            own[:] = sums / (penalty + np.bincount(mine, minlength=len(own)))
    predicted: Array = mean + of_user[test[:, 0].astype(int)] + of_item[test[:, 1].astype(int)]
    return predicted


def _rmse(predicted: Array, test: Array) -> float:
    errors = np.clip(predicted, LOWEST, HIGHEST) - test[:, 2]
    return float(np.sqrt(np.mean(errors**2)))


if __name__ == "__main__":
    main()
