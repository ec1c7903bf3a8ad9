"""What ranks leave in a job's folder for each other and for the launcher."""

from __future__ import annotations

import json
import os
import traceback
from pathlib import Path
from typing import Any

from recsys.errors import RecsysError
from recsys.files import write_atomically

ERROR_FILE = "error-rank-{rank}.json"
PID_FILE = "pid-rank-{rank}"
STALLED_FILE = "stalled-rank-{rank}.json"
WAITING_FILE = "waiting-rank-{rank}"
RANK_FILES = (ERROR_FILE, PID_FILE, STALLED_FILE, WAITING_FILE)
"""What ranks leave in a job's folder besides checkpoints and the result."""


def report_error(folder: Path, rank: int, error: Exception) -> None:
    """Leave an error where the launcher finds it."""
    content = json.dumps(describe_error(error)).encode()
    write_atomically(folder / ERROR_FILE.format(rank=rank), content)


def describe_error(error: Exception) -> dict[str, Any]:
    """An error in plain values; ``kind`` is empty for one that is not meant for people."""
    if isinstance(error, RecsysError):
        kind = type(error).__name__
        return {"kind": kind, "what": error.what, "where": error.where, "do": error.do}
    last = traceback.format_exception_only(error)[-1].strip()
    return {"kind": "", "what": last, "where": "", "do": ""}


def find_ranks(folder: Path) -> set[int]:
    """Ranks that have begun to train."""
    found = folder.glob(PID_FILE.format(rank="*"))
    return {int(path.name.rpartition("-")[2]) for path in found}


def forget_ranks_from(folder: Path, first: int) -> None:
    """Remove the process ids of ranks that an elastic training has no longer."""
    for rank in find_ranks(folder):
        if rank >= first:
            (folder / PID_FILE.format(rank=rank)).unlink(missing_ok=True)


def forget_ranks(folder: Path) -> None:
    """Remove all that ranks have left, before others start."""
    for pattern in RANK_FILES:
        for path in folder.glob(pattern.format(rank="*")):
            path.unlink(missing_ok=True)


def living_ranks(folder: Path) -> list[int]:
    """Process ids of ranks that run on this machine."""
    pids = [read_pid(folder, rank) for rank in find_ranks(folder)]
    return [pid for pid in pids if runs_worker(pid)]


def read_pid(folder: Path, rank: int) -> int:
    """The process id of a rank; 0 where it has left none, or an elastic training has removed it."""
    try:
        return int((folder / PID_FILE.format(rank=rank)).read_text())
    except OSError:
        return 0


def runs_worker(pid: int) -> bool:
    """Whether this machine's process ``pid`` is a rank."""
    try:
        return b"recsys.train.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def send_signal(pid: int, number: int) -> None:
    """Signal a process that may be gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
