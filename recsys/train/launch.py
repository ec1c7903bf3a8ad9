"""Start a training: by horovodrun, inside Spark executors, or in this process."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from recsys import errors
from recsys.errors import RecsysError, TrainingError
from recsys.schemas import TRAIN_SPLIT
from recsys.train.checkpoint import CheckpointStore
from recsys.train.job import JOB_FILE, TrainingJob, TrainingResult
from recsys.train.plan import plan_epoch
from recsys.train.worker import ERROR_FILE, PID_FILE

_FROM_RANK = re.compile(r"^\[(\d+)\]<std(?:out|err)>:")
_EXITED = re.compile(r"Process (\d+) exit with status code (-?\d+)")
_STOP_SECONDS = 10.0
_SIGNAL_BASE = 128
_KEPT_LINES = 200
_LOOPBACK = {"localhost", "127.0.0.1"}
_OF_THE_DRIVER = {"RECSYS_PSEUDONYM_KEY"}
# The C library gives tensors of a few MiB back to the system at once, and every step pays for
# fetching the pages again: a tenth of its time.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 25), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}


def launch_training(job: TrainingJob, spark: Any | None = None) -> TrainingResult:
    """Train ``job`` the way ``train.launcher`` says and wait for the result.

    A job that is complete already (same fingerprint, bundle in place) is not trained again; one
    that was cut off continues from its newest checkpoint.

    Args:
        job: what to train.
        spark: session whose executors train, for the launcher ``spark`` only.

    Raises:
        TrainingError: a rank failed or was killed; it names the rank and where a re-run resumes.
        TrackingError: MLflow can't be reached.
    """
    done = find_result(job)
    if done is not None:
        return done
    folder = Path(job.checkpoint_dir)
    _check_ranks(job)
    _forget_ranks(folder)
    launcher = job.settings.train.launcher
    if launcher == "horovodrun":
        job.save(folder / JOB_FILE)
        _run_horovodrun(job, folder)
    elif launcher == "spark":
        _run_in_spark(job, spark)
    else:
        from recsys.train.communication import SingleProcess
        from recsys.train.worker import train_rank

        return train_rank(job, SingleProcess())
    return TrainingResult.load(job.result_path)


def find_result(job: TrainingJob) -> TrainingResult | None:
    """The result of an earlier, complete training of the same job, or None."""
    from recsys.bundle import load_bundle

    try:
        result = TrainingResult.load(job.result_path)
        if not result.pruned:
            load_bundle(result.bundle_dir)
    except RecsysError:
        return None
    return result if result.fingerprint == job.fingerprint else None


def _check_ranks(job: TrainingJob) -> None:
    """Plan an epoch before any process starts: with too few row groups it says so."""
    settings = job.settings.train
    plan_epoch(
        [file for file in job.table.files if file.split == TRAIN_SPLIT],
        seed=settings.seed,
        epoch=0,
        ranks=settings.ranks,
        batch_size=settings.per_rank_batch_size,
        batch_events=settings.per_rank_batch_events,
    )


def _run_horovodrun(job: TrainingJob, folder: Path) -> None:
    settings = job.settings.train
    command = [sys.executable, "-m", "horovod.runner.launch", "-np", str(settings.ranks), "--gloo"]
    if settings.hosts:
        command += ["-H", settings.hosts]
    if _is_local(settings.hosts):
        # On one machine the search for a common network interface can pick one that is down.
        command += ["--network-interface", "lo"]
    command += [sys.executable, "-u", "-m", "recsys.train.worker", str(folder / JOB_FILE)]
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
        code = process.wait()
    finally:
        _stop(process, folder)
        reader.join(timeout=_STOP_SECONDS)
    if code != 0:
        raise _explain(job, list(lines), code)


def rank_environment(job: TrainingJob) -> dict[str, str]:
    """What ranks get of this process's variables: all but the key that knows who users are."""
    kept = {name: value for name, value in os.environ.items() if name not in _OF_THE_DRIVER}
    threads = str(job.settings.train.threads_per_rank)
    return {**_KEEP_MEMORY, **kept, "OMP_NUM_THREADS": threads}


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
    while pids := _living_ranks(folder):
        kill = signal.SIGKILL if time.monotonic() > deadline else signal.SIGTERM
        for pid in pids:
            _signal(pid, kill)
        time.sleep(0.2)


def _living_ranks(folder: Path) -> list[int]:
    pids = [int(path.read_text()) for path in folder.glob(PID_FILE.format(rank="*"))]
    return [pid for pid in pids if _runs_worker(pid)]


def _runs_worker(pid: int) -> bool:
    try:
        return b"recsys.train.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _forget_ranks(folder: Path) -> None:
    for pattern in (ERROR_FILE, PID_FILE):
        for path in folder.glob(pattern.format(rank="*")):
            path.unlink(missing_ok=True)


def _is_local(hosts: str | None) -> bool:
    names = {part.split(":")[0].strip() for part in (hosts or "localhost").split(",")}
    return names <= _LOOPBACK


def _explain(job: TrainingJob, lines: list[str], code: int) -> RecsysError:
    """The most telling of: a rank's own message, a rank killed by a signal, the first to exit."""
    reported = _reported_errors(Path(job.checkpoint_dir))
    for _, content in reported:
        kind = getattr(errors, content["kind"], None) if content["kind"] else None
        if kind is not None:
            return _rebuild(kind, content)
    exits = {int(found[1]): int(found[2]) for line in lines if (found := _EXITED.search(line))}
    # horovodrun ends the other ranks by SIGTERM; the one to blame died in another way, and
    # without a word: ranks that survive it report that their connection is gone.
    ranks = job.settings.train.ranks
    stopped = {-signal.SIGTERM, _SIGNAL_BASE + signal.SIGTERM}
    told = {rank for rank, _ in reported}
    for rank, exit_code in exits.items():
        if rank not in told and exit_code not in stopped and exit_code != 0:
            return _rank_error(job, f"rank {rank} of {ranks} {_name_exit(exit_code)}")
    if reported:
        rank, content = reported[0]
        return _rank_error(job, f"rank {rank} failed: {content['what']}")
    tail = next((line for line in reversed(lines) if line.strip()), "no output")
    return _rank_error(job, f"the launcher ended with exit code {code}: {tail}")


def _reported_errors(folder: Path) -> list[tuple[int, dict[str, str]]]:
    found = []
    for path in sorted(folder.glob(ERROR_FILE.format(rank="*"))):
        found.append((int(path.stem.rpartition("-")[2]), json.loads(path.read_text())))
    return found


def _rebuild(kind: Callable[..., RecsysError], content: dict[str, str]) -> RecsysError:
    return kind(content["what"], where=content["where"], do=content["do"])


def _name_exit(code: int) -> str:
    number = -code if code < 0 else code - _SIGNAL_BASE
    if 0 < number < signal.NSIG and (code < 0 or code > _SIGNAL_BASE):
        name = signal.Signals(number).name
        why = " (often the kernel, out of memory)" if number == signal.SIGKILL else ""
        return f"was killed by {name}{why}"
    return f"ended with exit code {code}"


def _rank_error(job: TrainingJob, what: str) -> TrainingError:
    step = CheckpointStore(Path(job.checkpoint_dir), "").last_step()
    resume = f"resumes from the checkpoint at step {step}" if step else "starts from step 0"
    return TrainingError(
        f"training failed: {what}",
        where=job.checkpoint_dir,
        do=f"see the rank's output above; running again {resume}",
    )


def _run_in_spark(job: TrainingJob, spark: Any | None) -> None:
    if spark is None:
        raise TrainingError(
            "train.launcher=spark needs a Spark session",
            do="start it with spark-submit, or set train.launcher=horovodrun",
        )
    import horovod.spark

    settings = job.settings.train
    try:
        horovod.spark.run(
            _train_in_executor,
            args=(job,),
            num_proc=settings.ranks,
            use_gloo=True,
            executable=os.environ.get("PYSPARK_PYTHON", sys.executable),
            env=rank_environment(job),
            verbose=1,
        )
    except Exception as error:
        explained = _explain(job, str(error).splitlines(), 1)
        raise explained from error


def _train_in_executor(job: TrainingJob) -> None:
    from recsys.train.communication import HorovodCommunicator
    from recsys.train.worker import train_rank

    communicator = HorovodCommunicator()
    train_rank(job, communicator)
    communicator.shutdown()
