"""Launchers and ranks of tests, watched from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.train.job import JOB_FILE, TrainingJob
from recsys.train.rank_files import PID_FILE

REPOSITORY = Path(__file__).resolve().parents[2]
_LAUNCH = (
    "import sys; from recsys.train.launch import launch_training;"
    "from recsys.train.job import TrainingJob;"
    "launch_training(TrainingJob.load(sys.argv[1]))"
)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def start_launcher(job: TrainingJob, path: Path, **variables: str) -> subprocess.Popen[bytes]:
    """A process that launches ``job``, which is written to ``path``."""
    job.save(path)
    return subprocess.Popen(
        [sys.executable, "-c", _LAUNCH, str(path)],
        env={**environment(), **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def plan_fault(patch: pytest.MonkeyPatch, fault: str) -> None:
    """See ``faults/sitecustomize.py``."""
    patch.syspath_prepend(str(REPOSITORY / "tests/distributed/faults"))
    patch.setenv("TEST_FAULT", fault)


def wait_until(condition: Callable[[], object], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def is_stopped(job: TrainingJob, rank: int) -> int:
    """The process id of a rank that SIGSTOP has stopped, or 0."""
    path = Path(job.checkpoint_dir) / PID_FILE.format(rank=rank)
    if not path.exists():
        return 0
    pid = int(path.read_text())
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return 0
    return pid if state == "T" else 0


def assert_no_ranks_left(job: TrainingJob) -> None:
    """No process on this machine still runs the job."""
    wanted = str(Path(job.checkpoint_dir) / JOB_FILE).encode()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        left = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = path.read_bytes()
            except OSError:
                continue
            if wanted in command and int(path.parent.name) != os.getpid():
                left.append(command)
        if not left:
            return
        time.sleep(0.2)
    raise AssertionError(f"still running: {left}")
