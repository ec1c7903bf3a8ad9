"""The forecast's model carried to 8, 64 and 512 GPUs, and held against a published measurement.

    python -m benchmarks.scale_model [--gbit 100] [--dims 256] [--items 1000000] …

Arithmetic, no measurement of this project's: compute is operations over an assumed share of a GPU's
rate (eight a host), a sum is a ring over hosts (`recsys.train.forecast.ring_seconds`). Efficiency
is the compute of one GPU over a step of all, with nothing overlapped, and with the backward pass
(two thirds of the compute) hiding what it can.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from recsys.train.forecast import ring_seconds

GPUS = (8, 64, 512)
LATENCY = 20e-6
"""Seconds a message, of a data centre's network."""

# Single-GPU rates (P100, batch 64) are those of TensorFlow's benchmark page of 2017, weights those
# of the models' papers; efficiencies on 512 GPUs and 25 Gbit/s stand in Horovod's README.
PUBLISHED = {
    "Inception V3": (23.8e6 * 4, 64 / 142.0, 0.90),
    "VGG-16": (138.3e6 * 4, 64 / 154.0, 0.68),
}


@dataclass(frozen=True)
class Traffic:
    """What a GPU has for the others each step, in bytes.

    Attributes:
        summed: added up on a ring: what travels does not depend on the number of GPUs.
        gathered: every GPU gets every other's part.
        owned: each part goes to the GPU that owns its rows, and as much comes back.
    """

    summed: float = 0.0
    gathered: float = 0.0
    owned: float = 0.0

    def seconds(self, gpus: int, a_host: int, gbit: float) -> float:
        """On a network that the GPUs of a host share; a ring enters and leaves each host once."""
        hosts, bandwidth = max(1, gpus // a_host), gbit * 1e9 / 8
        if hosts == 1:
            return 0.0
        others = (hosts - 1) / hosts
        moved = self.gathered * gpus + 2 * self.owned * a_host
        return ring_seconds(self.summed, hosts, bandwidth, LATENCY) + moved * others / bandwidth


def efficiency(compute: float, exchange: float) -> tuple[float, float]:
    """Share of a step that computes: nothing overlapped; all that the backward pass can hide."""
    exposed = max(0.0, exchange - compute * 2 / 3)
    return compute / (compute + exchange), compute / (compute + exposed)


def strategies(options: argparse.Namespace) -> dict[str, Traffic]:
    """Ways of sending the gradients of a sequence transformer with a sampled softmax."""
    dense = 4.0 * options.blocks * 12 * options.dims**2
    table = 4.0 * options.items * options.dims
    # Items repeat within a batch; a row is its entries and its number.
    rows = 0.6 * (options.batch * options.length + options.negatives)
    touched = min(rows, options.items) * (4.0 * options.dims + 4)
    return {
        "plain": Traffic(summed=table + dense),
        "fp16": Traffic(summed=(table + dense) / 2),
        "int8": Traffic(summed=(table + dense) * 65 / 256),
        "top-k, 1%": Traffic(gathered=0.01 * 2 * (table + dense)),
        "touched rows, gathered": Traffic(summed=dense, gathered=touched),
        "table split by rows": Traffic(summed=dense, owned=touched),
    }


def step_seconds(options: argparse.Namespace) -> float:
    """Forward and backward on one GPU: three times the forward's operations."""
    positions, dims = options.batch * options.length, options.dims
    block = 2 * 12 * dims**2 + 2 * 2 * dims * options.length / 2
    operations = 3 * positions * (options.blocks * block + 2 * options.negatives * dims)
    return float(operations / (options.rate * 1e12 * options.share))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, kind, default, said in (
        ("gbit", float, 100.0, "of a host's network"),
        ("rate", float, 312.0, "bf16 TFLOP/s of a GPU (A100's data sheet)"),
        ("share", float, 0.3, "of that rate that a step reaches"),
        ("dims", int, 256, ""), ("blocks", int, 8, ""), ("length", int, 200, ""),
        ("batch", int, 512, "windows a GPU"), ("items", int, 1_000_000, ""),
        ("negatives", int, 8192, ""),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, default=default, help=said)
    options = parser.parse_args()
    print("| 512 GPUs, 4 a host, 25 Gbit/s | no overlap | all overlapped | published |")
    print("| --- | --- | --- | --- |")
    for name, (payload, seconds, found) in PUBLISHED.items():
        low, high = efficiency(seconds, Traffic(summed=payload).seconds(512, 4, 25.0))
        print(f"| {name} | {low:.0%} | {high:.0%} | {found:.0%} |")
    compute = step_seconds(options)
    print(f"\na step computes {compute * 1000:.0f} ms on one GPU\n")
    print(f"| sent | {' | '.join(f'{gpus} GPUs' for gpus in GPUS)} |")
    print(f"| --- |{' --- |' * len(GPUS)}")
    for name, traffic in strategies(options).items():
        cells = []
        for gpus in GPUS:
            low, high = efficiency(compute, traffic.seconds(gpus, 8, options.gbit))
            cells.append(f"{low:.0%} to {high:.0%}")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
