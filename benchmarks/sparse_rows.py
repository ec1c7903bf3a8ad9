"""Dense and sparse gradients of an item table of 2,000,000 rows, between two ranks.

    python -m benchmarks.sparse_rows [--rows 200000 2000000] [--dims 64] [--steps 20]

Each rank trains the default transformer with one block and a sampled softmax on windows of items
drawn evenly, real Horovod ranks on this machine. Bytes are the payload that a rank sends in
gradients a step; seconds are those of training steps, the first one (which allocates moments)
included; memory is the most that a rank has held, with the copy of the best weights.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.ranks import DrawnFeed, longest, run_on_ranks
from benchmarks.windows import make_job
from recsys.train.communication import Communicator
from recsys.train.loop import run_training
from recsys.train.tracking import NullTracker

LENGTH = 51


def train(
    communicator: Communicator, folder: Path, kind: str, rows: int, dims: int, steps: int
) -> dict[str, Any]:
    """As one rank."""
    job = make_job(
        longest(LENGTH), rows, folder / "job", f"train.exchange.rows={kind}",
        "train.loss=sampled_softmax", "train.max_epochs=1", f"model.dims={dims}",
        "model.blocks=1", "train.per_rank_batch_size=32", "train.start_from_popularity=false",
    )  # fmt: skip
    # Of other ranks' rests it knows nothing, which nothing here asks for.
    feed: Any = DrawnFeed(communicator.rank, steps, 32, LENGTH, rows)
    result = run_training(job, communicator, NullTracker(), lambda *_: feed)
    seconds = result.events / result.events_per_second / steps
    return {"bytes": result.sent_bytes_per_step, "seconds": seconds}


def main() -> None:
    """Train with each kind of gradient on each size of table; print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[200_000, 2_000_000])
    parser.add_argument("--dims", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--ranks", type=int, default=2)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    print("| rows | gradients | MB a step | seconds a step | GiB of a rank |")
    print("| --- | --- | --- | --- | --- |")
    for rows in options.rows:
        for kind in ("dense", "sparse"):
            own = run_on_ranks(train, options.ranks, kind, rows, options.dims, options.steps)
            most = {name: max(figures[name] for figures in own) for name in own[0]}
            found[f"{rows} {kind}"] = most
            print(
                f"| {rows:,} | {kind} | {most['bytes'] / 1e6:.2f} | {most['seconds']:.3f} | "
                f"{most['peak_bytes'] / 2**30:.2f} |",
                flush=True,
            )
    record = {"benchmark": "sparse_rows", "machine": describe_machine(), **vars(options)}
    print(json.dumps({**record, "found": found}))


if __name__ == "__main__":
    main()
