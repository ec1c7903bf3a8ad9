"""What benchmarks run in processes of their own: the generator, and one measurement."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.control_group import join, limited_group

_STEP_SECONDS = 0.2


def generate_log(folder: str, **sizes: int) -> None:
    """Write a generated log; ``sizes`` are settings of the section ``generate``."""
    settings = [f"generate.{name}={value}" for name, value in sizes.items()]
    command = [sys.executable, "-m", "recsys.cli.main", "generate", "--out", folder]
    subprocess.run([*command, *settings], check=True)


def measure_alone(module: str, *arguments: str, limit_bytes: int | None = None) -> dict[str, Any]:
    """Run ``python -m module --one ...``; its last line is the figures as JSON.

    Args:
        limit_bytes: memory that it and all below it may hold in all, the page cache included.

    Returns:
        The figures, and ``peak_bytes``: the most memory that the process and all below it held.
    """
    command = [sys.executable, "-m", module, "--one", *arguments]
    if limit_bytes is None:
        return _watch(command)
    with limited_group(limit_bytes) as group:
        return _watch(command, functools.partial(join, group))


def _watch(command: list[str], before: Callable[[], None] | None = None) -> dict[str, Any]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=before)
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(_STEP_SECONDS):
            peak[0] = max(peak[0], resident_bytes(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    ended.set()
    watcher.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return {**json.loads(output.strip().splitlines()[-1]), "peak_bytes": peak[0]}


def processor_seconds(root: int) -> float:
    """User and system time of a process and all below it, those that ended included."""
    stats = _read_stats()
    seconds = sum(sum(map(int, stats[pid][11:15])) for pid in _tree(stats, root))
    return seconds / os.sysconf("SC_CLK_TCK")


def resident_bytes(root: int) -> int:
    """Memory that a process and all below it hold now; what they share counts once for each."""
    stats = _read_stats()
    tree = _tree(stats, root)
    pages = {pid: int(stats[pid][21]) for pid in tree}
    # Java starts a command by a fork that for a moment is its own memory once more.
    forks = {pid for pid in tree if pages[pid] > 0.9 * pages.get(int(stats[pid][1]), 1 << 60)}
    return sum(pages[pid] for pid in tree - forks) * os.sysconf("SC_PAGE_SIZE")


def _read_stats() -> dict[int, list[str]]:
    """By process the fields of /proc/PID/stat that follow the command: the parent is the second."""
    stats = {}
    # Of a process that ended meanwhile glob may raise what iterdir does not.
    for name in (path.name for path in Path("/proc").iterdir() if path.name.isdigit()):
        try:
            text = Path("/proc", name, "stat").read_text()
            stats[int(name)] = text.rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
    return stats


def _tree(stats: dict[int, list[str]], root: int) -> set[int]:
    tree = {root} & set(stats)
    while grown := {pid for pid, fields in stats.items() if int(fields[1]) in tree} - tree:
        tree |= grown
    return tree
