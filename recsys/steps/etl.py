"""Steps of the lake: ingest, build_silver, build_gold."""

from __future__ import annotations

import dataclasses
from pathlib import PurePosixPath

from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import ConfigError
from recsys.lake.accounting import SilverCounts
from recsys.lake.base import SETTINGS, last_change, state_settings
from recsys.lake.bronze import ingest_files, read_header
from recsys.lake.drift import Drift, check_log_schema
from recsys.lake.files import RawFile, find_files, is_file
from recsys.lake.gold import build_gold
from recsys.lake.operations import CAUGHT_UP_BY, DAYS_AFTER
from recsys.lake.sequences import holdout_cutoff
from recsys.lake.silver import build_silver
from recsys.steps.context import Context, Outcome, Step


def _input_root(context: Context) -> str:
    root = context.settings.input.path
    if not root:
        raise ConfigError("input.path is not set", do="give --input FOLDER, or set it in --conf")
    return root


def _find(context: Context) -> list[RawFile]:
    return find_files(
        context.spark, context.log, _input_root(context), context.days_after, context.run_date
    )


def _input_state(context: Context) -> str:
    files = [f"{f.name} {f.size} {f.modified_ms}" for f in _find(context)]
    return "\n".join([context.log.model_dump_json(exclude={"settings"}), *files])


def _ingest(context: Context) -> Outcome:
    files = _find(context)
    commit = ingest_files(context.lake, context.log, files, context.run_date)
    drift = check_log_schema(context.lake, context.log, files, commit.rows, context.run_date)
    night = F.col(schemas.INGEST_DATE) == F.lit(context.run_date)
    read_header(context.lake.read(schemas.BRONZE_EVENTS).where(night), context.log)
    return Outcome(
        f"{commit.rows:,} records of {len(files)} files",
        rows_in=commit.rows,
        rows_out=commit.rows,
        details={
            "files": str(len(files)),
            "records": str(commit.rows),
            DAYS_AFTER: str(context.days_after or ""),
            **_say_drift(context, drift),
        },
        tables_written={schemas.BRONZE_EVENTS.name: commit.version},
    )


def _say_drift(context: Context, drift: Drift | None) -> dict[str, str]:
    """What of a changed log schema was taken, for the terminal and ops/runs."""
    if drift is None:
        return {}
    details = {}
    for kind, names, what in (
        ("new", drift.new, "kept in bronze, read by nothing"),
        ("changed", drift.changed, "taken"),
        ("vanished", drift.vanished, "taken"),
    ):
        if names:
            details[f"{kind} columns"] = ", ".join(names)
        for name in names:
            context.say(f"  {'':<13} the log's {drift.describe(name)}: {what}")
    return details


def _build_silver(context: Context) -> Outcome:
    lake = context.lake
    root = context.settings.input.path
    if root and is_file(context.spark, root):
        root = str(PurePosixPath(root).parent)
    counts = build_silver(lake, context.log, root, context.days_after, context.run_date)
    named = dataclasses.asdict(counts)
    reasons, late_days = named.pop("reasons"), named.pop("late_days")
    details = {name: str(value) for name, value in named.items()}
    details |= {f"reject {reason}": str(n) for reason, n in sorted(reasons.items())}
    details |= {f"late {day}": str(n) for day, n in late_days.items()}
    tables = (
        schemas.BRONZE_REJECTS,
        schemas.SILVER_EVENTS,
        schemas.SILVER_USERS,
        schemas.SILVER_ITEMS,
        schemas.SILVER_USER_ATTRIBUTES,
    )
    return Outcome(
        _say_silver(counts),
        rows_in=counts.read,
        rows_out=counts.events,
        details=details,
        tables_read={schemas.BRONZE_EVENTS.name: context.written("ingest", schemas.BRONZE_EVENTS)},
        tables_written={table.name: lake.version(table) for table in tables if lake.exists(table)},
    )


def _say_silver(counts: SilverCounts) -> str:
    parts = [
        f"{counts.events:,} events",
        f"{counts.duplicates:,} duplicates",
        f"{counts.rejects:,} rejects",
    ]
    if counts.set_aside:
        parts.append(f"{counts.set_aside:,} set aside")
    if counts.late:
        days = ", ".join(f"{n:,} of {day}" for day, n in counts.late_days.items())
        parts.append(f"late: {days}")
    return ", ".join(parts)


def _build_gold(context: Context) -> Outcome:
    night = build_gold(context.lake, context.run_date)
    read = {
        **context.done("build_silver").tables_written,
        schemas.SILVER_EVENTS.name: night.events_version,
    }
    later = night.caught_up_by
    if later:
        return Outcome(
            f"nothing to do: the night of {later} has read all events up to {context.run_date}",
            details={CAUGHT_UP_BY: str(later)},
            tables_read=read,
        )
    counts = night.counts
    cutoff = holdout_cutoff(context.settings.gold, context.run_date)
    details = {name: str(value) for name, value in dataclasses.asdict(counts).items()}
    details |= {"held_out_from": f"{cutoff:%Y-%m-%d}", SETTINGS: state_settings(context.lake)}
    start = f"on {counts.base}'s" if counts.base else "from all events"
    return Outcome(
        f"{start}: {counts.touched_users:,} of {counts.sequences:,} users touched, "
        f"{counts.training_windows:,} windows written ({counts.settled_windows:,} final), "
        f"{counts.holdout_users:,} users held out from {cutoff:%Y-%m-%d}",
        rows_in=counts.events,
        rows_out=counts.sequences,
        details=details,
        tables_read=read,
        tables_written=night.written,
    )


INGEST = Step(
    "ingest",
    ("input", "ingest"),
    None,
    _ingest,
    _input_state,
)
BUILD_SILVER = Step(
    "build_silver",
    ("silver", "ingest", "privacy"),
    "ingest",
    _build_silver,
)
BUILD_GOLD = Step(
    "build_gold",
    ("gold",),
    "build_silver",
    _build_gold,
    # A repair of an earlier night makes this one to be done again.
    lambda context: str(last_change(context.lake, context.run_date)),
)
