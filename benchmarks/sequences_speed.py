"""Events trained a second beside RecTools' SASRec: same set, dims, block, length, loss, batch.

    make peers-setup
    python -m benchmarks.sequences_speed FILE [--runs 3] [--batches 20]

By turns, each in processes of its own with two threads; this project through Petastorm and
Horovod's launcher, with the item vectors that RecTools has (none shared). Also: the arithmetic that
the loss and the blocks need, as a share of what the machine's float32 matrix product does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.machine import describe_machine
from recsys.benchmark.sequence_file import read_sequences

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / ".venv-peers/bin/python"
DIMS, THREADS = 64, 2
SAME = [
    f"model.dims={DIMS}", "model.blocks=1", "model.heads=1", "model.dropout=0.5",
    "model.attributes=false", "model.neighbor_weight=0", "train.exclude_own_items=false",
    f"train.threads_per_rank={THREADS}", "train.per_rank_batch_size=128",
    "train.per_rank_batch_events=2048",
]  # fmt: skip


def main() -> None:
    """Run by turns and print rates, ratio and share of the matrix product."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--batches", type=int, default=20, help="of RecTools, timed")
    parser.add_argument("--epochs", type=int, default=2, help="of this project")
    options = parser.parse_args()
    runs = []
    for _ in range(options.runs):
        peer = _run([str(PEER), "benchmarks/peers/rectools_sasrec.py", str(options.file)],
                    "--batches", str(options.batches), "--dims", str(DIMS),
                    "--threads", str(THREADS))  # fmt: skip
        run = {"rectools": peer["events_per_second"], "float32_flops": measure_product()}
        for precision in ("bf16", "float32"):
            run[precision] = _train(options.file, options.epochs, precision)
        runs.append(run)
    _report(runs, read_sequences(options.file).num_items)


def _train(file: Path, epochs: int, precision: str) -> float:
    command = [sys.executable, "-m", "recsys.cli.main", "benchmark", "sequences", str(file)]
    given = [f"train.max_epochs={epochs}", f"train.precision={precision}"]
    return float(_run(command, *SAME, *given)["events_per_second"])


def _run(command: list[str], *arguments: str) -> dict[str, float]:
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure_product(size: int = 2048, seconds: float = 2.0) -> float:
    """Operations a second of a float32 matrix product, the best of several."""
    torch.set_num_threads(THREADS)
    first, best = torch.randn(size, size), float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        torch.mm(first, first)
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def operations_an_event(items: int) -> float:
    """Of one target: logits and their two gradients, the block's layers and theirs."""
    return 3.0 * (2.0 * DIMS * items + 2.0 * 12.0 * DIMS**2)


def _report(runs: list[dict[str, float]], items: int) -> None:
    middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    print(f"  rectools            {middle['rectools']:>9,.0f} events/s")
    for name in ("bf16", "float32"):
        ratios = sorted(run[name] / run["rectools"] for run in runs)
        shares = sorted(
            run[name] * operations_an_event(items) / run["float32_flops"] for run in runs
        )
        print(
            f"  recsys, {name:<11} {middle[name]:>9,.0f} events/s, "
            f"{statistics.median(ratios):.1f} times rectools "
            f"({ratios[0]:.1f} to {ratios[-1]:.1f}), "
            f"{statistics.median(shares):.0%} of the float32 matrix product "
            f"({middle['float32_flops'] / 1e9:.0f} GFLOP/s)"
        )
    record = {"benchmark": "sequences_speed", "machine": describe_machine(), "runs": runs}
    print(json.dumps(record))


if __name__ == "__main__":
    main()
