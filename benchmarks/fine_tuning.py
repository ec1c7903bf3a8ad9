"""Fine-tuned from a pre-trained model against the same model from scratch, with few labels or many.

    python -m benchmarks.fine_tuning [--events 150000] [--users 4000] [--seeds 1 2 3] [--folder F]
    python -m benchmarks.fine_tuning --log PATH --format movielens --date 1998-04-22 --tasks rating

A generated log, or another one, goes through the ETL once. Half of the validation users choose the
epoch, the other half test; no training sees either. For each seed one model is pre-trained on all
behaviour of the training users, and each task is learned with 1%, 10% and 100% of their labels from
it and from scratch: the same model, settings and early stopping. --folder keeps windows for another
run; section.key=value changes every training.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.machine import describe_machine
from benchmarks.processes import generate_log, measure_alone
from recsys import schemas
from recsys.bundle import load_bundle
from recsys.config import load_settings
from recsys.schemas import TRAIN_SPLIT, VALIDATION_SPLIT, DataFile, PinnedTable
from recsys.train.batch import make_batch
from recsys.train.communication import Communicator, SingleProcess
from recsys.train.feed import FeedOptions, InMemoryFeed
from recsys.train.job import TrainingJob
from recsys.train.loop import run_training
from recsys.train.objectives import choose_channels, make_objective
from recsys.train.objectives.labels import in_share
from recsys.train.objectives.next_item_ranks import NDCG
from recsys.train.objectives.next_label import AUC, RMSE
from recsys.train.rows import Rows
from recsys.train.tracking import NullTracker

RUN_DATE = "2026-01-03"  # of the generated log; without weights of age nothing depends on it
SHARES = (0.01, 0.1, 1.0)
FIGURES = {"purchase": NDCG, "click": AUC, "rating": RMSE}
MODEL = ["model.dims=64", "model.blocks=1", "model.heads=1", "gold.validation_share=0.3"]
TRAIN = [
    "train.launcher=single", "train.ranks=1", "train.recency_half_life_days=null",
    "train.per_rank_batch_size=64", "train.warmup_steps=20",
]  # fmt: skip
PRETRAINED = ["train.task=pretraining", "train.max_epochs=8", "train.patience=2"]
TUNED = [
    "model.head=linear",
    "train.learning_rate=0.001",
    "train.max_epochs=15",
    "train.patience=3",
]


def write_windows(log: str, form: str, day: str, folder: str) -> dict[str, Any]:
    """Run the ETL; the pinned tables of windows without and with ratings, and how many items."""
    from pyspark.sql import functions as F

    from recsys.lake.formats import load_format
    from recsys.lake.labelled_windows import write_rated_windows
    from recsys.lake.pinning import pin_training_table
    from recsys.lake.session import build_session
    from recsys.lake.tables import Lake
    from recsys.steps.context import Context
    from recsys.steps.etl import BUILD_GOLD, BUILD_SILVER, INGEST
    from recsys.steps.runner import run_night

    changes = [f"lake.root={folder}/lake", f"input.path={log}", *MODEL]
    settings = load_settings(None, [*changes, "spark.shuffle_partitions=4"])
    lake = Lake(build_session(settings, "benchmark fine tuning"), settings)
    night = date.fromisoformat(day)
    context = Context(settings, load_format(form), night, lake, say=lambda _: None)
    runs = run_night(context, (INGEST, BUILD_SILVER, BUILD_GOLD))
    versions = runs["build_gold"].tables_written
    rated = write_rated_windows(lake, versions, night)
    items = lake.read(schemas.SILVER_ITEMS).agg(F.max(schemas.ITEM_IDX)).collect()[0][0]
    tables = [
        pin_training_table(lake, versions[schemas.GOLD_TRAINING_SEQUENCES.name]),
        pin_training_table(lake, rated.version, schemas.GOLD_TRAINING_EXAMPLES),
    ]
    return {"tables": [dataclasses.asdict(table) for table in tables], "items": items}


class Windows:
    """Windows of one table in memory: training users, those that choose, those that test."""

    def __init__(self, table: dict[str, Any]) -> None:
        self.files = tuple(DataFile(**file) for file in table["files"])
        self.name, self.version = table["name"], table["version"]
        self.columns = {file.url: _read(file.url) for file in self.files}

    def feed(self, job: TrainingJob, test: bool = False) -> tuple[PinnedTable, dict[str, Rows]]:
        """The table and its rows, with the validation users of one half."""
        channels, files, rows = choose_channels(job), [], {}
        for file in self.files:
            columns = self.columns[file.url]
            if file.split == VALIDATION_SPLIT:
                users = torch.from_numpy(columns[schemas.USER_IDX].astype(np.int64))
                chosen = in_share(users, 0.5, seed=99).numpy() == test
                columns = {name: values[chosen] for name, values in columns.items()}
            count = len(columns[schemas.USER_IDX])
            if count:
                files.append(dataclasses.replace(file, rows=count))
                rows[file.url] = channels.pack(columns, columns[schemas.CONTEXT])
        return PinnedTable(self.name, self.version, tuple(files)), rows


def _read(url: str) -> dict[str, Any]:
    table = pq.read_table(unquote(urlparse(url).path), partitioning=None)
    columns = {}
    for name in table.column_names:
        values = table.column(name)
        if str(values.type).startswith("list"):
            columns[name] = np.stack(values.to_numpy())
        elif name in (schemas.USER_IDX, schemas.CONTEXT):
            columns[name] = values.to_numpy()
    return columns


def train(
    windows: Windows, items: int, folder: Path, settings: Sequence[str], start: str = ""
) -> tuple[str, dict[str, float]]:
    """Train a model; its bundle, and its figures on the users that test."""
    made = load_settings(None, [*MODEL, *TRAIN, *settings])
    job = TrainingJob(
        made, RUN_DATE, PinnedTable(windows.name, windows.version, windows.files), items,
        folder.name, str(folder / "checkpoints"), str(folder / "bundle"), start_from=start,
    )  # fmt: skip
    table, rows = windows.feed(job)
    job = dataclasses.replace(job, table=table)

    def make_feed(job: TrainingJob, communicator: Communicator) -> InMemoryFeed:
        train = job.settings.train
        options = FeedOptions(
            seed=train.seed, rank=0, ranks=1, batch_size=train.per_rank_batch_size,
            shuffle_rows=job.settings.feed.shuffle_buffer_rows, prefetch=8,
            channels=choose_channels(job),
        )  # fmt: skip
        return InMemoryFeed(table, rows, options)

    done = run_training(job, SingleProcess(), NullTracker(), make_feed)
    test, rows = windows.feed(job, test=True)
    batches = [
        make_batch(rows[file.url], None, choose_channels(job))
        for file in test.files
        if file.split != TRAIN_SPLIT
    ]
    objective = make_objective(job, torch.device("cpu"))
    figures = objective.validate(load_bundle(done.bundle_dir)[0], batches, SingleProcess())
    return done.bundle_dir, {**figures, "epochs": float(done.epochs), "seconds": done.seconds}


def compare(
    found: dict[str, Any], folder: Path, seed: str, tasks: Sequence[str], given: Sequence[str]
) -> dict[str, Any]:
    """All trainings of one seed: figure of each task, share and start."""
    sequences, rated = (Windows(table) for table in found["tables"])
    own = [*given, f"train.seed={seed}"]
    bundle, figures = train(sequences, found["items"], folder / "pretrained", [*PRETRAINED, *own])
    print("pre-trained", json.dumps(figures), flush=True)
    results: dict[str, Any] = {"pretrained": figures}
    for task in tasks:
        windows = rated if task == "rating" else sequences
        for share in SHARES:
            for name, start in (("scratch", ""), ("fine-tuned", bundle)):
                case = f"{task} {share:g} {name}"
                chosen = [f"train.task={task}", f"train.label_share={share}", *TUNED, *own]
                _, figures = train(
                    windows, found["items"], folder / case.replace(" ", "-"), chosen, start
                )
                results[case] = figures
                print(f"seed {seed} {case} {json.dumps(figures)}", flush=True)
    return results


def main() -> None:
    """Make the windows, train with each seed, print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=150_000)
    parser.add_argument("--users", type=int, default=4_000)
    parser.add_argument("--items", type=int, default=1_500)
    parser.add_argument("--seeds", nargs="+", default=["1", "2", "3"])
    parser.add_argument("--tasks", nargs="+", default=list(FIGURES), choices=list(FIGURES))
    parser.add_argument("--log", help="a log instead of a generated one")
    parser.add_argument("--format", default="generated", help="of --log")
    parser.add_argument("--date", default=RUN_DATE, help="last day of --log")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    given = [text for text in sys.argv[1:] if "=" in text]  # section.key=value of every training
    options = parser.parse_args([text for text in sys.argv[1:] if "=" not in text])
    if options.one:
        print(json.dumps(write_windows(*options.one)))
        return
    torch.set_num_threads(1)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as name:
        lake = options.folder or Path(name)
        windows = lake / "windows.json"
        if not windows.exists():
            log = options.log or f"{lake}/log"
            if not options.log:
                generate_log(log, **{n: getattr(options, n) for n in ("events", "users", "items")})
            made = measure_alone(
                "benchmarks.fine_tuning", log, options.format, options.date, str(lake)
            )
            windows.write_text(json.dumps(made))
        found = json.loads(windows.read_text())
        runs = [
            compare(found, Path(name) / seed, seed, options.tasks, given) for seed in options.seeds
        ]
    report(runs, options.tasks)
    machine = describe_machine()
    seconds = round(time.monotonic() - started)
    print(json.dumps({"benchmark": "fine_tuning", "machine": machine, "seconds": seconds}))
    print(json.dumps(runs))


def report(runs: Sequence[dict[str, Any]], tasks: Sequence[str]) -> None:
    """Means and the range over seeds, on the users that test."""
    print("| task | labels | from scratch | fine-tuned | difference |")
    print("| --- | --- | --- | --- | --- |")
    for task in tasks:
        figure = FIGURES[task]
        for share in SHARES:
            scratch, tuned = (
                [run[f"{task} {share:g} {name}"][figure] for run in runs]
                for name in ("scratch", "fine-tuned")
            )
            changes = [after - before for before, after in zip(scratch, tuned, strict=True)]
            cells = " | ".join(map(_spread, (scratch, tuned, changes)))
            print(f"| {task}, {figure.removeprefix('validation_')} | {share:.0%} | {cells} |")


def _spread(values: Sequence[float]) -> str:
    mean = statistics.mean(values)
    return f"{mean:.4f} ({min(values):.4f} to {max(values):.4f})"


if __name__ == "__main__":
    main()
