"""Running steps: skip what is done, record what happened, say it in one line."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence

from recsys.errors import RecsysError, first_line
from recsys.lake.operations import FAILED, SUCCEEDED, StageRun, check_schema_version, record_run
from recsys.steps.context import Context, Outcome, Step

# Settings that say where or how fast a step runs, not what comes out.
_NOT_PART_OF_RESULT = {
    "train": {"checkpoint_dir", "hosts"},
    "privacy": {"key_file"},
    "input": {"path"},
}


def run_night(context: Context, steps: Sequence[Step]) -> dict[str, StageRun]:
    """Run steps in order; each is skipped where its last success had the same inputs.

    Raises:
        RecsysError: a step failed; the failure is recorded, later steps did not run.
    """
    with context.lake.explain_damage():
        check_schema_version(context.lake)
        context.refresh()
        return {step.name: _run_step(context, step) for step in steps}


def _run_step(context: Context, step: Step) -> StageRun:
    started = time.monotonic()
    fingerprint = ""
    try:
        fingerprint = fingerprint_of(context, step)
        before = context.runs.get(step.name)
        if before and _is_done(before, fingerprint) and not context.force:
            context.say(f"  {step.name:<13} done before, nothing to do")
            return before
        outcome = step.run(context)
    except BaseException as error:
        _record_failure(context, step, fingerprint, time.monotonic() - started, error)
        raise
    run = _to_run(context, step, SUCCEEDED, fingerprint, time.monotonic() - started, outcome)
    record_run(context.lake, run)
    context.runs[step.name] = run
    context.say(f"  {step.name:<13} {run.seconds:6.1f} s  {outcome.headline}")
    return run


def _is_done(run: StageRun, fingerprint: str) -> bool:
    return run.status == SUCCEEDED and run.fingerprint == fingerprint


def fingerprint_of(context: Context, step: Step) -> str:
    """Hash of all that the step's result depends on: settings, inputs, the stage before.

    Raises:
        LakeError: the stage before has not run for this date.
    """
    parts = [step.name, str(context.run_date), step.inputs(context)]
    for section in step.sections:
        values = getattr(context.settings, section)
        parts.append(values.model_dump_json(exclude=_NOT_PART_OF_RESULT.get(section)))
    if step.after:
        parts.append(context.done(step.after).fingerprint)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _record_failure(
    context: Context, step: Step, fingerprint: str, seconds: float, error: BaseException
) -> None:
    message = error.what if isinstance(error, RecsysError) else first_line(error)
    run = _to_run(context, step, FAILED, fingerprint, seconds, Outcome(""), message)
    try:
        record_run(context.lake, run)
    except Exception as second:
        # The first error is what matters: a full disk fails here too.
        context.say(f"  (the failure could not be recorded in ops/runs: {first_line(second)})")


def _to_run(
    context: Context,
    step: Step,
    status: str,
    fingerprint: str,
    seconds: float,
    outcome: Outcome,
    message: str = "",
) -> StageRun:
    return StageRun(
        context.run_date,
        step.name,
        status,
        fingerprint,
        outcome.rows_in,
        outcome.rows_out,
        outcome.details,
        outcome.tables_read,
        outcome.tables_written,
        seconds,
        message,
    )
