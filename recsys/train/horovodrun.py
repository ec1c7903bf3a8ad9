"""Ranks by horovodrun: started, watched, and ended with it."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from recsys.errors import TrainingError
from recsys.files import write_atomically
from recsys.train.horovod_communication import CYCLE, FUSION
from recsys.train.job import JOB_FILE, TrainingJob
from recsys.train.rank_errors import describe_stall, explain
from recsys.train.rank_files import (
    STALLED_FILE,
    find_ranks,
    living_ranks,
    read_pid,
    runs_worker,
    send_signal,
)

log = logging.getLogger(__name__)

_FROM_RANK = re.compile(r"^\[(\d+)\]<std(?:out|err)>:")
_STOP_SECONDS = 10.0
_WATCH_SECONDS = 1.0
_KEPT_LINES = 200
_LOOPBACK = {"localhost", "127.0.0.1"}
_OF_THE_DRIVER = {"RECSYS_PSEUDONYM_KEY"}
# The C library gives tensors of a few MiB back to the system at once, and every step pays for
# fetching the pages again: a tenth of its time.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 25), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}


def run_horovodrun(job: TrainingJob, folder: Path, *options: str) -> None:
    """Train ``job`` as ranks of horovodrun, and wait; whatever happens, none is left behind.

    ``options`` go to the worker.

    Raises:
        TrainingError: a rank failed, was killed or hangs, or the script of hosts does not work.
        TrackingError: MLflow can't be reached.
    """
    job.save(folder / JOB_FILE)
    command = [*_build_command(job, folder), sys.executable, "-u", "-m", "recsys.train.worker"]
    command += [str(folder / JOB_FILE), *options]
    environment = {
        **rank_environment(job),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONWARNINGS": "ignore::UserWarning,ignore::FutureWarning",
    }
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )
    lines: deque[str] = deque(maxlen=_KEPT_LINES)
    assert process.stdout is not None
    reader = threading.Thread(target=_forward, args=(process.stdout, lines), daemon=True)
    reader.start()
    try:
        code = _wait(process, job, folder)
    finally:
        _stop(process, folder)
        reader.join(timeout=_STOP_SECONDS)
    if code != 0:
        raise explain(job, list(lines), code)


def _build_command(job: TrainingJob, folder: Path) -> list[str]:
    settings = job.settings.train
    command = [sys.executable, "-m", "horovod.runner.launch", "--gloo", "-np", str(settings.ranks)]
    if settings.elastic:
        script = settings.discovery_script or str(_write_hosts(job, folder))
        hosts = _find_hosts(script)
        command += ["--min-np", str(settings.min_ranks), "--max-np", str(settings.most_ranks)]
        command += ["--host-discovery-script", script]
        command += ["--elastic-timeout", str(settings.stall_timeout_seconds)]
    else:
        hosts = _names_of((settings.hosts or "localhost").split(","))
        command += ["-H", settings.hosts] if settings.hosts else []
    if hosts <= _LOOPBACK:
        # On one machine the search for a common network interface can pick one that is down.
        command += ["--network-interface", "lo"]
    return command


def _write_hosts(job: TrainingJob, folder: Path) -> Path:
    """A script that prints ``train.hosts``.

    On one machine alone, half of the ranks run under another of its names: Horovod gives up all
    ranks of a host's name when it loses one.
    """
    most = job.settings.train.most_ranks
    here = [f"localhost:{-(-most // 2)}", f"127.0.0.1:{most // 2}"][: min(2, most)]
    hosts = (job.settings.train.hosts or ",".join(here)).split(",")
    path = folder / "hosts.sh"
    lines = ["#!/bin/sh", *(f"echo {shlex.quote(host.strip())}" for host in hosts)]
    write_atomically(path, ("\n".join(lines) + "\n").encode())
    path.chmod(0o755)
    return path


def _find_hosts(script: str) -> set[str]:
    """What the script says now: horovodrun would wait for one that fails or says nothing."""
    done = subprocess.run(script, shell=True, capture_output=True, text=True)
    hosts = _names_of(done.stdout.split())
    if done.returncode or not hosts:
        raise TrainingError(
            f"the script of hosts ended with exit code {done.returncode} and named {len(hosts)} "
            f"hosts: {done.stderr.strip()[-200:]}",
            where=script,
            do="train.discovery_script must be a program that prints host:slots a line",
        )
    return hosts


def _names_of(hosts: Iterable[str]) -> set[str]:
    return {host.partition(":")[0].strip() for host in hosts}


def _wait(process: subprocess.Popen[str], job: TrainingJob, folder: Path) -> int:
    while True:
        try:
            return process.wait(_WATCH_SECONDS)
        except subprocess.TimeoutExpired:
            for path in folder.glob(STALLED_FILE.format(rank="*")):
                missing = set(json.loads(path.read_text()))
                path.unlink(missing_ok=True)
                _end_stalled(job, folder, missing)


def _end_stalled(job: TrainingJob, folder: Path, missing: set[int]) -> None:
    """Kill ranks that the others wait for in vain, so that an elastic training goes on without.

    Raises:
        TrainingError: they don't run on this machine.
    """
    seconds, ranks = job.settings.train.stall_timeout_seconds, len(find_ranks(folder))
    pids = {rank: read_pid(folder, rank) for rank in missing}
    if not pids or not all(map(runs_worker, pids.values())):
        raise describe_stall(missing, ranks, seconds)
    for rank, pid in pids.items():
        log.warning("rank %d has not answered for %d s and is killed", rank, seconds)
        send_signal(pid, signal.SIGKILL)


def rank_environment(job: TrainingJob) -> dict[str, str]:
    """What ranks get of this process's variables: all but the key that knows who users are."""
    kept = {name: value for name, value in os.environ.items() if name not in _OF_THE_DRIVER}
    settings, exchange = job.settings.train, job.settings.train.exchange
    environment = {
        **_KEEP_MEMORY,
        **kept,
        "OMP_NUM_THREADS": str(settings.threads_per_rank),
        # Ranks give up by themselves before, with an error that names the rank (watchdog.py).
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(2 * settings.stall_timeout_seconds),
    }
    if exchange.fusion_mb is not None:
        environment[FUSION] = str(exchange.fusion_mb << 20)
    if exchange.cycle_ms is not None:
        environment[CYCLE] = str(exchange.cycle_ms)
    if settings.elastic:
        # Horovod 0.28.1 writes beyond an array when it begins anew with one of these set
        # (BayesianParameter::SetValue of a value that is fixed already), and the rank dies.
        for name in (FUSION, CYCLE):
            environment.pop(name, None)
    return environment


def _end_with_parent() -> None:
    """In the child: ask Linux for SIGTERM when this process dies, even by SIGKILL."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _forward(stream: TextIO, lines: deque[str]) -> None:
    for line in stream:
        lines.append(line.rstrip("\n"))
        if _FROM_RANK.match(line):  # the launcher's own stack traces help no one
            sys.stderr.write(_FROM_RANK.sub(r"rank \1: ", line))
            sys.stderr.flush()


def _stop(process: subprocess.Popen[str], folder: Path) -> None:
    """End horovodrun and, whatever it left behind on this machine, the ranks."""
    if process.poll() is None:
        # horovodrun ends its ranks on SIGTERM; killing its whole group would orphan them.
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    deadline = time.monotonic() + _STOP_SECONDS
    while pids := living_ranks(folder):
        kill = signal.SIGKILL if time.monotonic() > deadline else signal.SIGTERM
        for pid in pids:
            send_signal(pid, kill)
        time.sleep(0.2)
