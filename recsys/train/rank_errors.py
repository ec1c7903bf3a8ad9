"""From what ranks left behind to one error that names the rank."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

from recsys import errors
from recsys.errors import RecsysError, TrainingError
from recsys.train.checkpoint import CheckpointStore
from recsys.train.job import TrainingJob
from recsys.train.rank_files import ERROR_FILE

_EXITED = re.compile(r"Process (\d+) exit with status code (-?\d+)")
_SIGNAL_BASE = 128


def explain(job: TrainingJob, lines: list[str], code: int) -> RecsysError:
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


def describe_stall(missing: set[int], ranks: int, seconds: int) -> TrainingError:
    """The error of a training in which ranks have waited ``seconds`` for ``missing``."""
    named = ", ".join(map(str, sorted(missing)))
    who = f"rank {named} of {ranks} has not answered" if missing else "ranks waited for each other"
    return TrainingError(
        f"training failed: {who} for {seconds} s",
        do="it hangs, is far too slow, or never started: see its output and its machine; running "
        "again goes on from the newest checkpoint. If it only needs longer, raise "
        "train.stall_timeout_seconds",
    )
