"""Memory of a rank where the item table is split over 1, 2 and 4 ranks: 1,000,000 rows x 64 dims.

    python -m benchmarks.sharded_tables [--items 1000000] [--dims 64] [--ranks 1 2 4]

Each rank trains the default transformer with one block on a few windows of items drawn evenly, real
Horovod ranks on this machine, two epochs with validation and a checkpoint. The figure is the most
memory that a rank has held until its last validation, less what the same rank holds with a table of
1,000 rows (Python, torch, Horovod, the blocks); after that rank 0 writes the whole table.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.ranks import DrawnFeed, longest, run_on_ranks
from benchmarks.windows import make_job
from recsys.train.batch_stream import BatchStream
from recsys.train.communication import Communicator
from recsys.train.loop import run_training
from recsys.train.tracking import NullTracker

LENGTH, WINDOWS, STEPS, FEW_ITEMS = 51, 4, 5, 1_000


class WatchedFeed(DrawnFeed):
    """Remembers the most memory that the process has held when it was last asked to validate."""

    held = 0

    def validation(self) -> BatchStream:
        """As ``DrawnFeed``."""
        self.held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return super().validation()


def train(
    communicator: Communicator, folder: Path, loss: str, tables: str, items: int, dims: int
) -> dict[str, Any]:
    """As one rank."""
    job = make_job(
        longest(LENGTH), items, folder / "job", f"train.exchange.tables={tables}",
        f"train.loss={loss}", "train.max_epochs=2", f"model.dims={dims}", "model.blocks=1",
        f"train.per_rank_batch_size={WINDOWS}", "train.start_from_popularity=false",
        "train.negatives=1024",
    )  # fmt: skip
    feed = WatchedFeed(communicator.rank, STEPS, WINDOWS, LENGTH, items)
    given: Any = feed  # of other ranks' rests it knows nothing, which nothing here asks for
    result = run_training(job, communicator, NullTracker(), lambda *_: given)
    seconds = result.events / result.events_per_second / result.global_steps
    figures = {"held_bytes": feed.held, "sent_bytes": result.sent_bytes_per_step}
    return {**figures, "seconds": seconds}


def main() -> None:
    """Train on each number of ranks with each loss; print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dims", type=int, default=64)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--losses", nargs="+", default=["sampled_softmax", "softmax"])
    options = parser.parse_args()
    runs = []
    print("| loss | table | ranks | MiB of each rank | MB sent a step | seconds a step |")
    print("| --- | --- | --- | --- | --- | --- |")
    for loss in options.losses:
        for tables, ranks in (("replicated", 1), *(("sharded", ranks) for ranks in options.ranks)):
            run = measure(loss, tables, ranks, options.items, options.dims)
            runs.append(run)
            held = ", ".join(f"{size / 2**20:,.0f}" for size in run["table_bytes"])
            print(
                f"| {loss} | {tables} | {ranks} | {held} | {run['sent_bytes'] / 1e6:.2f} | "
                f"{run['seconds']:.2f} |",
                flush=True,
            )
    record = {"benchmark": "sharded_tables", "machine": describe_machine(), **vars(options)}
    print(json.dumps({**record, "runs": runs}))


def measure(loss: str, tables: str, ranks: int, items: int, dims: int) -> dict[str, Any]:
    """Figures of one training, and of the same one with few items."""
    found = run_on_ranks(train, ranks, loss, tables, items, dims)
    base = _measure_base(ranks, dims)
    return {
        "loss": loss, "tables": tables, "ranks": ranks,
        "table_bytes": [
            own["held_bytes"] - few["held_bytes"] for own, few in zip(found, base, strict=True)
        ],
        "peak_bytes": [own["peak_bytes"] for own in found],
        "sent_bytes": max(own["sent_bytes"] for own in found),
        "seconds": max(own["seconds"] for own in found),
    }  # fmt: skip


@functools.cache
def _measure_base(ranks: int, dims: int) -> list[dict[str, Any]]:
    return run_on_ranks(train, ranks, "softmax", "sharded", FEW_ITEMS, dims)


if __name__ == "__main__":
    main()
