"""Running steps: skip what is done, record what happened, say it in one line."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections import Counter
from collections.abc import Sequence

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
    "score": {"writer"},
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
        runs = {step.name: _run_step(context, step) for step in wanted}
        return {name: run for name, run in runs.items() if run is not None}


def _run_step(context: Context, step: Step) -> StageRun | None:
    """Run a step; where another run of the lake was in the way, look again and start over.

    Returns:
        ``None`` where a later night has read the events that it would work on.
    """
    if context.caught_up_by and step.name not in ETL:
        context.say(f"  {step.name:<13} nothing to do")
        return None
    retries = context.settings.lake.retries
    for left in range(retries, -1, -1):
        try:
            return _try_step(context, step)
        except ConflictError as error:
            if not left:
                raise
            context.say(f"  {step.name:<13} {error.what}: again")
            context.refresh()
    raise AssertionError("the last try returns or raises")


def _try_step(context: Context, step: Step) -> StageRun:
    started = time.monotonic()
    fingerprint = ""
    try:
        fingerprint = fingerprint_of(context, step)
        before = context.runs.get(step.name)
        done = before is not None and _is_done(before, fingerprint)
        if before and done and not step.repeats and not context.force:
            context.say(f"  {step.name:<13} done before, nothing to do")
            return before
        outcome = step.run(context)
        results, outcome = _check(context, step, outcome)
    except BaseException as error:
        _record_failure(context, step, fingerprint, time.monotonic() - started, error)
        raise
    run = _to_run(context, step, SUCCEEDED, fingerprint, time.monotonic() - started, outcome)
    # Both at once; a red result is a detail of the run too, so neither can be lost alone.
    context.lake.in_parallel(
        lambda: record_run(context.lake, run), lambda: _record_checks(context, step, results)
    )
    context.runs[step.name] = run
    context.say(f"  {step.name:<13} {run.seconds:6.1f} s  {outcome.headline}")
    for result in results:
        if result.status != GREEN:
            context.say(f"  {'':<13} {result.status}: {result}")
    return run


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
