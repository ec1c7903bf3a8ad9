"""Steps of the lake: ingest, build_silver, build_gold."""

from __future__ import annotations

import dataclasses
from pathlib import PurePosixPath

from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import ConfigError
from recsys.lake.bronze import ingest_files, read_header
from recsys.lake.files import RawFile, find_files, is_file
from recsys.lake.gold import build_gold, holdout_cutoff
from recsys.lake.operations import DAYS_AFTER
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
        },
        tables_written={schemas.BRONZE_EVENTS.name: commit.version},
    )


def _build_silver(context: Context) -> Outcome:
    lake = context.lake
    root = context.settings.input.path
    if root and is_file(context.spark, root):
        root = str(PurePosixPath(root).parent)
    counts = build_silver(lake, context.log, root, context.days_after, context.run_date)
    details = {
        name: str(value) for name, value in dataclasses.asdict(counts).items() if name != "reasons"
    }
    details |= {f"reject {reason}": str(n) for reason, n in sorted(counts.reasons.items())}
    tables = (
        schemas.BRONZE_REJECTS,
        schemas.SILVER_EVENTS,
        schemas.SILVER_USERS,
        schemas.SILVER_ITEMS,
    )
    return Outcome(
        f"{counts.events:,} events, {counts.duplicates:,} duplicates, {counts.rejects:,} rejects",
        rows_in=counts.read,
        rows_out=counts.events,
        details=details,
        tables_read={schemas.BRONZE_EVENTS.name: context.written("ingest", schemas.BRONZE_EVENTS)},
        tables_written={table.name: lake.version(table) for table in tables},
    )


def _build_gold(context: Context) -> Outcome:
    lake = context.lake
    counts = build_gold(lake, context.run_date)
    cutoff = holdout_cutoff(context.settings.gold, context.run_date)
    details = {name: str(value) for name, value in dataclasses.asdict(counts).items()}
    tables = (
        schemas.GOLD_SEQUENCES,
        schemas.GOLD_TRAINING_SEQUENCES,
        schemas.GOLD_HOLDOUT,
        schemas.GOLD_RATINGS,
        schemas.GOLD_ITEM_STATS,
    )
    return Outcome(
        f"{counts.sequences:,} users, {counts.training_windows:,} training windows, "
        f"{counts.holdout_users:,} users held out from {cutoff:%Y-%m-%d}",
        rows_in=counts.events,
        rows_out=counts.sequences,
        details={**details, "held_out_from": f"{cutoff:%Y-%m-%d}"},
        tables_read=context.done("build_silver").tables_written,
        tables_written={table.name: lake.version(table) for table in tables},
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
)
