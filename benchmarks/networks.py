"""Where each way of exchanging gradients wins: ranks behind links of several speeds, and forecasts.

    python -m benchmarks.networks [--gbit 0.1 1 10] [--latency-ms 0 1] [--ranks 2] [--dims 64] …

Each rank runs in a network namespace whose link is shaped (needs root). For each link and strategy
the ranks are first asked what an epoch will take (`recsys train --explain`), then train one. The
traffic is what the links counted, headers and coordination included, beside the payload reckoned.
A latency other than 0 makes packets wait on their way, in each direction (``delay_line``).
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.feed import write_windows
from benchmarks.machine import describe_machine
from benchmarks.namespaces import linked_ranks, run_worker, sent_bytes
from benchmarks.windows import make_job, make_windows
from recsys.train.forecast import forecast
from recsys.train.job import TrainingJob, TrainingResult
from recsys.train.probe import Probe
from recsys.train.worker import PROBE_FILE, PROBE_OPTION

_OF = "train.exchange"
STRATEGIES = {
    "plain": [],
    "fp16": [f"{_OF}.compression=fp16"],
    "int8": [f"{_OF}.compression=int8"],
    "top-k, 1%": [f"{_OF}.compression=top_k"],
    "PowerSGD, rank 4": [f"{_OF}.compression=power_sgd"],
    "accumulation, 4 batches": ["train.gradient_accumulation=4"],
    "local, average every 8 steps": [f"{_OF}.average_every_steps=8"],
}


def main() -> None:
    """Run each strategy behind each link and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gbit", type=float, nargs="+", default=[0.1, 1.0, 10.0])
    parser.add_argument("--latency-ms", type=float, nargs="+", default=[0.0], help="one way")
    parser.add_argument("--strategies", nargs="+", choices=list(STRATEGIES), default=[*STRATEGIES])
    for name, default in (
        ("ranks", 2), ("items", 50_000), ("dims", 64), ("users", 12_288), ("length", 50),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    print(json.dumps({"benchmark": "networks", "machine": describe_machine(), **vars(options)}))
    rows = []
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as name:
        folder = Path(name)
        table, contents = make_windows(options.users, options.items, options.length, folder)
        write_windows(contents)
        for gbit, latency in itertools.product(options.gbit, options.latency_ms):
            with linked_ranks(options.ranks, gbit, latency):
                for label in options.strategies:
                    job = make_job(
                        table, options.items, folder / "job", "train.launcher=horovodrun",
                        f"train.ranks={options.ranks}", "train.threads_per_rank=1",
                        "train.max_epochs=1", "train.precision=bf16",
                        "train.checkpoint_every_steps=100000", "train.loss=sampled_softmax",
                        f"gold.sequence_length={options.length}",
                        f"gold.length_buckets=[{options.length}]",
                        f"model.dims={options.dims}", "model.blocks=1", *STRATEGIES[label],
                    )  # fmt: skip
                    link = {"gbit": gbit, "latency_ms": latency}
                    row = {**link, "strategy": label, **_measure(job, options.ranks)}
                    print(json.dumps(row), flush=True)
                    rows.append(row)
                    shutil.rmtree(folder / "job")
    _report(rows)


def _measure(job: TrainingJob, ranks: int) -> dict[str, Any]:
    run_worker(job, PROBE_OPTION)
    probe = Probe.load(Path(job.checkpoint_dir) / PROBE_FILE)
    expected = forecast(job, probe)
    before = sent_bytes(ranks)
    run_worker(job)
    sent = max(after - b for after, b in zip(sent_bytes(ranks), before, strict=True))
    result = TrainingResult.load(job.result_path)
    seconds = result.events / result.events_per_second
    return {
        "steps": result.global_steps,
        "seconds": round(seconds, 2),
        "forecast_seconds": round(expected.epoch_seconds, 2),
        "forecast_exchange": round(expected.exchange_seconds, 2),
        "forecast_error": round(expected.epoch_seconds / seconds - 1.0, 3),
        "payload_mib": round(result.sent_bytes_per_step * result.global_steps / 2**20, 1),
        "link_mib": round(sent / 2**20, 1),
        "memory_gib": round(expected.memory_bytes / 2**30, 2),
        "events": result.events,
    }


def _report(rows: list[dict[str, Any]]) -> None:
    print(
        "| link | strategy | seconds | beside plain | forecast | MiB sent, payload | by the link |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    plain: dict[str, float] = {}
    for row in rows:
        link = f"{row['gbit']:g} Gbit/s"
        if row["latency_ms"]:
            link += f", {row['latency_ms']:g} ms"
        plain.setdefault(link, row["seconds"])
        print(
            f"| {link} | {row['strategy']} | {row['seconds']:.1f} "
            f"| {plain[link] / row['seconds']:.2f} times | {row['forecast_error']:+.0%} "
            f"| {row['payload_mib']:,.0f} | {row['link_mib']:,.0f} |"
        )


if __name__ == "__main__":
    main()
