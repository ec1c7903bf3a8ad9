"""Training on a GPU: events a second, memory, and the share of the chip's measured bf16 rate.

    python -m benchmarks.gpu_train [--dims 256] [--blocks 4] [--items 100000]

Fed from memory, one process, no Horovod, Petastorm, Spark or MLflow needed. The limit is a bf16
matrix product of 8192 x 8192 x 8192 in the same run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.windows import Windows, make_job, make_windows
from recsys.train.communication import Communicator, SingleProcess
from recsys.train.feed import FeedOptions, InMemoryFeed
from recsys.train.job import TrainingJob
from recsys.train.loop import run_training
from recsys.train.tracking import NullTracker


def measure_peak(device: torch.device) -> float:
    """FLOP a second of a large matrix product (bf16 on a GPU, float32 on a CPU)."""
    on_gpu = device.type == "cuda"
    size, kind = (8192, torch.bfloat16) if on_gpu else (1024, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    for _ in range(3):
        a @ b
    if on_gpu:
        torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(10):
        a @ b
    if on_gpu:
        torch.cuda.synchronize()
    return 10 * 2 * size**3 / (time.perf_counter() - started)


def flops_per_event(dims: int, blocks: int, items: int, length: int) -> float:
    """Forward and backward of one position: 3 times the forward's multiply-adds.

    A block has 12 dims² weights (attention 4, feed-forward 8) and attends to half of ``length``;
    the softmax over the catalogue multiplies with items x dims.
    """
    block = 2 * 12 * dims**2 + 2 * 2 * dims * length / 2
    return 3 * (blocks * block + 2 * items * dims)


def main() -> None:
    """Train some epochs, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (
        ("dims", 256), ("blocks", 4), ("items", 100_000), ("users", 100_000), ("length", 50),
        ("batch", 512), ("epochs", 2), ("seed", 1),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    peak = measure_peak(device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table, contents = make_windows(options.users, options.items, options.length, folder)
        job = make_job(
            table, options.items, folder / "job", f"train.max_epochs={options.epochs}",
            f"gold.sequence_length={options.length}", f"gold.length_buckets=[{options.length}]",
            f"model.dims={options.dims}", f"model.blocks={options.blocks}", "model.heads=4",
            f"train.per_rank_batch_size={options.batch}", f"train.seed={options.seed}",
            "train.sampled_softmax_above_items=10000000",
        )  # fmt: skip
        result = run_training(job, SingleProcess(), NullTracker(), _factory(contents))
    rate = result.events_per_second
    used = rate * flops_per_event(options.dims, options.blocks, options.items, options.length)
    where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    print(
        f"{where}: {rate:,.0f} events/s, {used / 1e12:.1f} of {peak / 1e12:.1f} TFLOP/s "
        f"({used / peak:.1%}), {memory:.1f} GiB at most, waited {result.wait_share:.1%}"
    )
    print(f"validation after {result.epochs} epochs: {result.metrics}")
    print(json.dumps({
        "benchmark": "gpu_train", "device": where, "torch": torch.__version__, **vars(options),
        "events_per_second": rate, "flops_share": used / peak, "peak_gib": memory,
        **result.metrics,
    }))  # fmt: skip


def _factory(contents: Windows):  # type: ignore[no-untyped-def]
    def make(job: TrainingJob, _: Communicator) -> InMemoryFeed:
        settings = job.settings
        options = FeedOptions(
            seed=settings.train.seed, rank=0, ranks=1,
            batch_size=settings.train.per_rank_batch_size,
            shuffle_rows=settings.feed.shuffle_buffer_rows,
            prefetch=settings.feed.prefetch_batches,
            pin_memory=torch.cuda.is_available(),
        )  # fmt: skip
        return InMemoryFeed(job.table, contents, options)

    return make


if __name__ == "__main__":
    main()
