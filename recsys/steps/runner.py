"""Running steps: skip what is done, record what happened, say it in one line."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from recsys.checks import GREEN, STATUSES, of_stage
from recsys.errors import ConflictError, RecsysError, first_line
from recsys.lake.operations import (
    CAUGHT_UP_BY,
    FAILED,
    SUCCEEDED,
    StageRun,
    check_schema_version,
    record_run,
)
from recsys.lake.quality import CheckResult, check_tables, record_checks
from recsys.steps import ETL
from recsys.steps.behind import Behind
from recsys.steps.context import Context, Outcome, Step

# Settings that say where or how fast a step runs, not what comes out.
_NOT_PART_OF_RESULT = {
    # A training goes on from its checkpoint however its ranks are started, and however many.
    "train": {
        "checkpoint_dir", "launcher", "ranks", "hosts", "min_ranks", "max_ranks",
        "discovery_script", "commit_every_steps", "stall_timeout_seconds", "parallel",
    },
    "privacy": {"key_file"},
    "input": {"path"},
    "ingest": {"accept_schema", "unmapped_drift"},
    "feed": {"stage_dir"},
}  # fmt: skip


def run_night(context: Context, steps: Sequence[Step]) -> dict[str, StageRun]:
    """Run steps in order; each is skipped where its last success had the same inputs.

    A step that the settings don't ask for is left out, and so is all that follows build_gold where
    a later night has read this one's events.

    Raises:
        RecsysError: a step failed; the failure is recorded, later steps did not run.
    """
    with context.lake.explain_damage():
        check_schema_version(context.lake)
        context.refresh()
        wanted = [step for step in steps if step.wanted(context.settings)]
        with Behind() as behind:
            for step in wanted:
                _run_step(context, step, behind)
        return {step.name: context.runs[step.name] for step in wanted if step.name in context.runs}


def _run_step(context: Context, step: Step, behind: Behind) -> None:
    """Run a step; where another run of the lake was in the way, look again and start over."""
    if not step.overlaps:
        behind.wait()
    if context.caught_up_by and step.name not in ETL:
        context.say(f"  {step.name:<13} nothing to do")
        return
    for left in range(context.settings.lake.retries, -1, -1):
        try:
            finish = _try_step(context, step, behind)
            break
        except ConflictError as error:
            if not left:
                raise
            behind.wait()
            context.say(f"  {step.name:<13} {error.what}: again")
            context.refresh()
    if finish is None:
        behind.wait()
        context.say(f"  {step.name:<13} done before, nothing to do")
    else:
        behind.start(finish)


def _try_step(context: Context, step: Step, behind: Behind) -> Callable[[], None] | None:
    """Do a step's work; what is left to do of it (None: it was done before)."""
    started = time.monotonic()
    fingerprint = ""
    try:
        fingerprint = fingerprint_of(context, step)
        before = context.runs.get(step.name)
        done = before is not None and _is_done(before, fingerprint)
        if done and not step.repeats and not context.force:
            return None
        outcome = step.run(context)
    except BaseException as error:
        # In the order of the steps: two first writes of one table would be in each other's way.
        behind.settle()
        _record_failure(context, step, fingerprint, time.monotonic() - started, error)
        raise
    context.runs[step.name] = _to_run(context, step, SUCCEEDED, fingerprint, 0.0, outcome)
    return partial(_finish, context, step, behind, fingerprint, started, outcome)


def _finish(
    context: Context,
    step: Step,
    behind: Behind,
    fingerprint: str,
    started: float,
    outcome: Outcome,
) -> None:
    """Check what a step has written, record both, and say so."""
    # What it did before that was in the time of the step before: a night's seconds add up.
    started = max(started, behind.ended)
    try:
        results, outcome = _check(context, step, outcome)
    except BaseException as error:
        _record_failure(context, step, fingerprint, time.monotonic() - started, error)
        raise
    run = _to_run(context, step, SUCCEEDED, fingerprint, time.monotonic() - started, outcome)
    # Both at once; a red result is a detail of the run too, so neither can be lost alone.
    context.lake.in_parallel(
        lambda: _insist(context, lambda: record_run(context.lake, run)),
        lambda: _insist(context, lambda: _record_checks(context, step, results)),
    )
    context.runs[step.name] = run
    context.say(f"  {step.name:<13} {run.seconds:6.1f} s  {outcome.headline}")
    for result in results:
        if result.status != GREEN:
            context.say(f"  {'':<13} {result.status}: {result}")


def _insist(context: Context, write: Callable[[], None]) -> None:
    """Write again where another run of the lake was in the way."""
    for left in range(context.settings.lake.retries, -1, -1):
        try:
            return write()
        except ConflictError:
            if not left:
                raise


def _check(context: Context, step: Step, outcome: Outcome) -> tuple[list[CheckResult], Outcome]:
    """Check the tables that the step has written; what is red stops `publish`, not the step."""
    checked = of_stage(step.name) or outcome.results
    if not checked or CAUGHT_UP_BY in outcome.details:
        return [], outcome
    started = time.monotonic()
    figures = {name: int(value) for name, value in outcome.details.items() if value.isdecimal()}
    figures |= {"rows_in": outcome.rows_in, "rows_out": outcome.rows_out}
    written = outcome.tables_written
    results = check_tables(
        context.lake, context.run_date, step.name, written, figures, context.history
    )
    results += outcome.results
    said = Counter(result.status for result in results)
    details = {
        **outcome.details,
        **{f"checks {status}": str(said[status]) for status in STATUSES},
        "checks seconds": f"{time.monotonic() - started:.2f}",
    }
    return results, dataclasses.replace(outcome, details=details)


def _record_checks(context: Context, step: Step, results: Sequence[CheckResult]) -> None:
    if results:
        record_checks(context.lake, context.run_date, step.name, results, context.history)


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
