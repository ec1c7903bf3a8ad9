"""Memory and traffic of a deep transformer on four ranks, as replicas and as stages.

    python -m benchmarks.stages [--blocks 16] [--dims 256] [--windows 32]

Real Horovod ranks on this machine train one batch of all windows a step, however it is dealt: four
readers, two replicas of two stages, or four stages, each with four micro-batches a stage. The
figures are those of the rank that holds or sends most, with the best weights, until a validation:
for a checkpoint rank 0 of a pipeline collects whole weights and moments besides.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.ranks import DrawnFeed, longest, run_on_ranks
from benchmarks.windows import make_job
from recsys.train.communication import Communicator
from recsys.train.probe import run_probe

RANKS, LENGTH, STEPS, ITEMS = 4, 51, 8, 10_000
LAYOUTS = {
    "4 replicas": (1, []),
    "2 replicas of 2 stages": (2, []),
    "the same, item table split by rows": (
        2, ["train.loss=sampled_softmax", "train.exchange.tables=sharded"]
    ),
    "4 stages": (4, []),
}  # fmt: skip


def measure_rank(
    communicator: Communicator, folder: Path, layout: str, blocks: int, dims: int, windows: int
) -> dict[str, Any]:
    """As one rank."""
    stages, chosen = LAYOUTS[layout]
    readers = RANKS // stages
    job = make_job(
        longest(LENGTH), ITEMS, folder / "job", "train.launcher=horovodrun",
        f"train.ranks={RANKS}", f"train.parallel.pipeline_stages={stages}",
        f"model.dims={dims}", f"model.blocks={blocks}", f"train.per_rank_batch_size={windows}",
        "train.start_from_popularity=false", "train.negatives=1024", *chosen,
    )  # fmt: skip
    reader = communicator.rank // stages
    feed = DrawnFeed(reader, STEPS, windows // readers, LENGTH, ITEMS)
    return dataclasses.asdict(run_probe(job, communicator, feed))  # type: ignore[arg-type]


def main() -> None:
    """Measure each layout; print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=16)
    parser.add_argument("--dims", type=int, default=256)
    parser.add_argument("--windows", type=int, default=32)
    options = parser.parse_args()
    sizes = (options.blocks, options.dims, options.windows)
    runs: dict[str, Any] = {}
    print("| layout | MiB of a rank's weights | MiB of memory | MB sent a step |")
    print("| --- | --- | --- | --- |")
    for layout in LAYOUTS:
        runs[layout] = run = run_on_ranks(measure_rank, RANKS, layout, *sizes, splits=True)[0]
        memory = (run["memory_bytes"] + run["best_bytes"]) / 2**20
        print(
            f"| {layout} | {run['weights_bytes'] / 2**20:.1f} | {memory:,.0f} "
            f"| {run['sent_bytes_per_step'] / 1e6:.2f} |",
            flush=True,
        )
    print(json.dumps({"benchmark": "stages", "machine": describe_machine(), "runs": runs}))


if __name__ == "__main__":
    main()
