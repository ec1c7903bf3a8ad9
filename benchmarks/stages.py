"""Memory and traffic of a deep transformer on four ranks, as replicas and as stages.

    python -m benchmarks.stages [--blocks 16] [--dims 256] [--windows 32] [--checkpoint]

Real Horovod ranks on this machine train one batch of all windows a step, however it is dealt: four
readers, two replicas of two stages, or four stages, each with four micro-batches a stage. The
figures are those of the rank that holds or sends most, with the best weights, until a validation.

With ``--checkpoint``: what two stages hold besides while they write a checkpoint after a
validation, and at most when they go on with it.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.ranks import DrawnFeed, longest, run_on_ranks
from benchmarks.windows import make_job
from recsys.train.communication import Communicator
from recsys.train.job import TrainingJob
from recsys.train.loop import Trainer
from recsys.train.probe import run_probe
from recsys.train.tracking import NullTracker

RANKS, LENGTH, STEPS, ITEMS = 4, 51, 8, 10_000
_MIB = 2**20
SPLIT = ["train.exchange.tables=sharded"]
LAYOUTS = {
    "4 replicas": (1, []),
    "2 replicas of 2 stages": (2, []),
    "the same, item table split by rows": (
        2, ["train.loss=sampled_softmax", *SPLIT]
    ),
    "the same with the softmax over all items": (2, SPLIT),
    "4 stages": (4, []),
    "4 stages, item table split by rows, the softmax over all items": (4, SPLIT),
}  # fmt: skip


def measure_rank(
    communicator: Communicator, folder: Path, layout: str, blocks: int, dims: int, windows: int
) -> dict[str, Any]:
    """As one rank."""
    stages, chosen = LAYOUTS[layout]
    job = make_stages(folder, RANKS, stages, blocks, dims, windows, *chosen)
    feed = DrawnFeed(communicator.rank // stages, STEPS, windows * stages // RANKS, LENGTH, ITEMS)
    return dataclasses.asdict(run_probe(job, communicator, feed))  # type: ignore[arg-type]


def make_stages(
    folder: Path, ranks: int, stages: int, blocks: int, dims: int, windows: int, *chosen: str
) -> TrainingJob:
    """A job of so many ranks and stages."""
    return make_job(
        longest(LENGTH), ITEMS, folder / "job", "train.launcher=horovodrun",
        f"train.ranks={ranks}", f"train.parallel.pipeline_stages={stages}",
        f"model.dims={dims}", f"model.blocks={blocks}", f"train.per_rank_batch_size={windows}",
        "train.start_from_popularity=false", "train.negatives=1024", *chosen,
    )  # fmt: skip


def measure_checkpoint(
    communicator: Communicator, folder: Path, blocks: int, dims: int, windows: int
) -> dict[str, Any]:
    """As one of two stages: MiB of memory before a checkpoint, more in it, and at a resumption."""
    job = make_stages(folder, 2, 2, blocks, dims, windows)
    feed: Any = DrawnFeed(0, STEPS, windows, LENGTH, ITEMS)
    trainer = Trainer(job, communicator, feed, NullTracker())
    trainer.started = time.perf_counter()
    trainer.learner.model.train()
    with feed.epoch(0) as batches:
        for batch in batches:
            trainer.train_step([batch])
    trainer.learner.agree()
    trainer.learner.keep_best()
    whole = sum(weight.nbytes for weight in trainer.learner.average.parameters())
    before = find_peak(restart=True)
    trainer._save_checkpoint()
    more = find_peak() - before
    communicator.barrier()  # rank 0 has written
    trainer.learner.close()
    del trainer
    gc.collect()
    find_peak(restart=True)
    Trainer(job, communicator, feed, NullTracker()).learner.close()
    return {"whole": whole / _MIB, "before": before, "more": more, "resumed": find_peak()}


def find_peak(restart: bool = False) -> float:
    """MiB of resident memory at most since it was last restarted: then as it is now (Linux)."""
    if restart:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(peak) / 1024


def print_checkpoint(sizes: tuple[int, int, int]) -> None:
    """Measure a checkpoint; print a table."""
    print("| stage | MiB of a whole model | before | more at a checkpoint | at a resumption |")
    print("| --- | --- | --- | --- | --- |")
    for stage, run in enumerate(run_on_ranks(measure_checkpoint, 2, *sizes, splits=True)):
        figures = [f"{run[name]:,.1f}" for name in ("whole", "before", "more", "resumed")]
        print(f"| {stage} | {' | '.join(figures)} |")


def main() -> None:
    """Measure each layout; print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=16)
    parser.add_argument("--dims", type=int, default=256)
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--checkpoint", action="store_true")
    options = parser.parse_args()
    sizes = (options.blocks, options.dims, options.windows)
    if options.checkpoint:
        print_checkpoint(sizes)
        return
    runs: dict[str, Any] = {}
    print("| layout | MiB of a rank's weights | MiB of memory | MB sent a step |")
    print("| --- | --- | --- | --- |")
    for layout in LAYOUTS:
        runs[layout] = run = run_on_ranks(measure_rank, RANKS, layout, *sizes, splits=True)[0]
        memory = (run["memory_bytes"] + run["best_bytes"]) / _MIB
        print(
            f"| {layout} | {run['weights_bytes'] / _MIB:.1f} | {memory:,.0f} "
            f"| {run['sent_bytes_per_step'] / 1e6:.2f} |",
            flush=True,
        )
    print(json.dumps({"benchmark": "stages", "machine": describe_machine(), "runs": runs}))


if __name__ == "__main__":
    main()
