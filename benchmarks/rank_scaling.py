"""Events that 1, 2 and 4 ranks train on a second, beside what the machine's cores could give.

    python -m benchmarks.rank_scaling [--events 5000000] [--ranks 2 4] [--batch-events 4096]
                                      [section.key=value …]

A log like Amazon Beauty's: as many items, about nine events a user, few items with most of the
events. `recsys benchmark scaling` trains an epoch of it with each number of ranks, of one thread
each, on the same batches of all ranks. The limit: two trainings of one rank at the same time, of
half the batch each, which tell each other nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.machine import describe_machine

ROOT = Path(__file__).resolve().parent.parent
ITEMS, SHORTEST, MEAN_LENGTH = 12_101, 5, 8.9
BASE = [
    "model.dims=64", "model.attributes=false", "model.neighbor_weight=0",
    "train.checkpoint_every_steps=100000",
]  # fmt: skip


def main() -> None:
    """Write the log, train with each number of ranks and twice alone, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--batch-events", type=int, default=4096, help="of all ranks, in a step")
    options, given = parser.parse_known_args()
    batch = options.batch_events
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as name:
        log = Path(name) / "log.txt"
        write_log(log, options.events)
        ranks = [str(count) for count in options.ranks]
        found = [_finish(_start(log, batch, ranks, *given))]
        alone = [_start(log, batch // 2, ["1"], *given) for _ in range(2)]
        found += [_finish(process) for process in alone]
    _report(found, batch, given)


def write_log(path: Path, events: int) -> None:
    """Sequences of at least five events; half of the items follow from the one before."""
    dice = np.random.default_rng(1)
    users = round(events / MEAN_LENGTH)
    lengths = SHORTEST - 1 + dice.geometric(1 / (MEAN_LENGTH - SHORTEST + 1), users)
    shares = 1.0 / (np.arange(ITEMS) + 50.0)
    drawn = dice.choice(ITEMS, lengths.sum(), p=shares / shares.sum())
    follows = dice.random(len(drawn)) < 0.5
    drawn[1:] = np.where(follows[1:], (drawn[:-1] + 1) % ITEMS, drawn[1:])
    with path.open("w", encoding="utf-8") as file:
        for user, own in enumerate(np.split(drawn + 1, np.cumsum(lengths)[:-1]), start=1):
            file.write(f"{user} {' '.join(map(str, own))}\n")


def _start(log: Path, batch: int, ranks: Sequence[str], *given: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "recsys.cli.main", "benchmark", "scaling", str(log)]
    command += ["--epochs", "1", "--ranks", *ranks, *BASE]
    # The events are the limit: a user has five at least.
    command += [f"train.per_rank_batch_size={batch // 2}"]
    command += [f"train.per_rank_batch_events={batch}", *given]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def _finish(process: subprocess.Popen[str]) -> list[dict[str, float]]:
    lines = process.communicate()[0].splitlines()
    if process.returncode:
        raise SystemExit(process.returncode)
    return [json.loads(line) for line in lines]


def _report(found: list[list[dict[str, float]]], batch: int, given: list[str]) -> None:
    together, *alone = found
    first = together[0]["events_per_second"]
    for row in together:
        print(
            f"  {row['ranks']:g} ranks {row['events_per_second']:>9,.0f} events/s, "
            f"{row['speed_up']:.2f} times one, waited {row['waited_seconds'] / row['seconds']:.1%}"
        )
    limit = sum(rows[0]["events_per_second"] for rows in alone)
    print(f"  2 alone {limit:>9,.0f} events/s, {limit / first:.2f} times one: the limit of two")
    record = {"benchmark": "rank_scaling", "machine": describe_machine(), "given": given}
    print(
        json.dumps(
            {
                **record,
                "batch_events": batch,
                "ranks": together,
                "alone": [rows[0] for rows in alone],
            }
        )
    )


if __name__ == "__main__":
    main()
