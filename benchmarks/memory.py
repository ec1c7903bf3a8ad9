"""Memory of a training on a large catalogue: 1,000,000 items, 128 dims, through the whole command.

    python -m benchmarks.memory [--items 1000000] [--dims 128] [section.key=value …]

Users share the items out between them, so that every item is in the log. The figure is the largest
sum of the resident memory of all processes of the command (each counts its own pages of shared
libraries), sampled ten times a second, and that of the rank alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from benchmarks.machine import describe_machine

ROOT = Path(__file__).resolve().parent.parent
EVENTS_A_USER = 250


def main() -> None:
    """Write the log, run one epoch of the benchmark command on it, and print the peak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dims", type=int, default=128)
    given = [text for text in sys.argv[1:] if "=" in text]
    options = parser.parse_args([text for text in sys.argv[1:] if "=" not in text])
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as name:
        log = Path(name) / "log.txt"
        _write_log(log, options.items)
        command = [
            sys.executable, "-m", "recsys.cli.main", "benchmark", "sequences", str(log),
            f"model.dims={options.dims}", "train.max_epochs=1", *given,
        ]  # fmt: skip
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        peaks = _watch(process)
        assert process.stdout is not None
        result = json.loads(process.stdout.read())
    gib = {name: round(size / 2**30, 2) for name, size in peaks.items()}
    print(f"  all processes {gib['all']} GiB, rank {gib['rank']} GiB at most; {result}")
    record = {"benchmark": "memory", "machine": describe_machine(), "given": given, "gib": gib}
    print(json.dumps({**record, "result": result}))


def _write_log(path: Path, items: int) -> None:
    order = np.random.default_rng(0).permutation(items) + 1
    users = [order[at : at + EVENTS_A_USER] for at in range(0, items, EVENTS_A_USER)]
    lines = (f"{n} {' '.join(map(str, own))}\n" for n, own in enumerate(users, start=1))
    path.write_text("".join(lines))


def _watch(process: subprocess.Popen[str]) -> dict[str, int]:
    peaks = {"all": 0, "rank": 0}
    parent = psutil.Process(process.pid)
    while process.poll() is None:
        sizes = []
        for child in (parent, *_children(parent)):
            try:
                size, rank = child.memory_info().rss, "recsys.train.worker" in child.cmdline()
            except psutil.Error:
                continue
            sizes.append(size)
            if rank:
                peaks["rank"] = max(peaks["rank"], size)
        peaks["all"] = max(peaks["all"], sum(sizes))
        time.sleep(0.1)
    return peaks


def _children(parent: psutil.Process) -> list[psutil.Process]:
    try:
        return parent.children(recursive=True)
    except psutil.Error:
        return []


if __name__ == "__main__":
    main()
