"""Training fed by Petastorm beside the same loop fed from memory.

    python -m benchmarks.feed [--users 8000] [--runs 3]

Both feeds make the same batches of the same rows; runs alternate. The figure is events a second of
training epochs, validation left out, and the share of them that the model waited.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.machine import describe_machine
from benchmarks.windows import Windows, make_job, make_windows
from recsys import schemas
from recsys.schemas import PinnedTable
from recsys.train.communication import Communicator, SingleProcess
from recsys.train.feed import FeedOptions, InMemoryFeed
from recsys.train.job import TrainingJob, TrainingResult
from recsys.train.loop import run_training
from recsys.train.tracking import NullTracker
from recsys.train.worker import make_feed


def main() -> None:
    """Write the windows, train by turns from files and from memory, print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=8_000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as name:
        folder = Path(name)
        table, contents = make_windows(options.users, options.items, options.length, folder)
        write_windows(contents)
        runs = []
        for number in range(options.runs):
            pair = {}
            for kind in ("petastorm", "memory"):
                job = make_job(
                    table, options.items, folder / f"{kind}-{number}", "train.max_epochs=1",
                    f"gold.sequence_length={options.length}",
                    f"gold.length_buckets=[{options.length}]",
                    "train.sampled_softmax_above_items=1000",
                )  # fmt: skip
                pair[kind] = _train(job, contents if kind == "memory" else None)
            runs.append(pair)
    _report(runs)


def write_windows(contents: Windows) -> None:
    """Write windows as the Parquet files that their urls name."""
    for url, rows in contents.items():
        none = pa.array(np.zeros(len(rows), dtype=np.int32))
        table = pa.table({schemas.ITEMS: pa.array(list(rows)), schemas.CONTEXT: none})
        pq.write_table(table, urlparse(url).path)


def _train(job: TrainingJob, contents: Windows | None) -> TrainingResult:
    def from_memory(job: TrainingJob, communicator: Communicator) -> InMemoryFeed:
        return memory_feed(job.table, contents or {}, job)

    feed = make_feed if contents is None else from_memory
    return run_training(job, SingleProcess(), NullTracker(), feed)


def memory_feed(table: PinnedTable, contents: Windows, job: TrainingJob) -> InMemoryFeed:
    """The twin of the Petastorm feed for one process."""
    settings = job.settings
    return InMemoryFeed(
        table,
        contents,
        FeedOptions(
            seed=settings.train.seed,
            rank=0,
            ranks=1,
            batch_size=settings.train.per_rank_batch_size,
            shuffle_rows=settings.feed.shuffle_buffer_rows,
            prefetch=settings.feed.prefetch_batches,
        ),
    )


def _report(runs: list[dict[str, TrainingResult]]) -> None:
    for kind in ("petastorm", "memory"):
        rates = sorted(run[kind].events_per_second for run in runs)
        waits = statistics.median(run[kind].wait_share for run in runs)
        middle = statistics.median(rates)
        print(
            f"  {kind:<9} {rates[0]:>9,.0f} {middle:>9,.0f} {rates[-1]:>9,.0f} events/s "
            f"(min, median, max), waited {waits:.2%}"
        )
    ratios = [run["petastorm"].events_per_second / run["memory"].events_per_second for run in runs]
    print(f"  petastorm / memory: {statistics.median(ratios):.3f} (median of {len(runs)} pairs)")
    record = [{kind: result.events_per_second for kind, result in run.items()} for run in runs]
    print(json.dumps({"benchmark": "feed", "machine": describe_machine(), "runs": record}))


if __name__ == "__main__":
    main()
