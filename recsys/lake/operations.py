"""ops/runs: what each stage of each night did, and whether it need be done again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import LakeError
from recsys.lake.tables import Lake

SUCCEEDED = "succeeded"
FAILED = "failed"
DAYS_AFTER = "days_after"
"""A detail of ingest: it read the days after this one; empty: from the start."""


@dataclass(frozen=True)
class StageRun:
    """One row of ops/runs."""

    run_date: date
    stage: str
    status: str
    fingerprint: str
    rows_in: int = 0
    rows_out: int = 0
    details: Mapping[str, str] = field(default_factory=dict)
    tables_read: Mapping[str, int] = field(default_factory=dict)
    tables_written: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    message: str = ""

    @property
    def run_id(self) -> str:
        """Equal for the same night with the same inputs and settings."""
        return f"{self.run_date}-{self.fingerprint[:12] or 'not-begun'}"


def record_run(lake: Lake, run: StageRun) -> None:
    """Append the outcome of a stage."""
    row = (
        run.run_id, run.run_date, run.stage, run.status, run.fingerprint, run.rows_in,
        run.rows_out, dict(run.details), dict(run.tables_read), dict(run.tables_written),
        run.seconds, run.message, datetime.now(UTC),
    )  # fmt: skip
    frame = lake.spark.createDataFrame([row], schemas.OPS_RUNS.ddl).coalesce(1)
    lake.append(schemas.OPS_RUNS, frame)


def latest_runs(lake: Lake, run_date: date) -> dict[str, StageRun]:
    """The newest row of each stage of a night that may have changed something.

    A stage that failed before it began (no fingerprint) leaves its last success valid; one that
    failed while it ran does not.
    """
    newest = F.max_by(F.struct("*"), "finished_at").alias("run")
    rows = (
        lake.read(schemas.OPS_RUNS)
        .where((F.col(schemas.RUN_DATE) == F.lit(run_date)) & (F.col(schemas.FINGERPRINT) != ""))
        .groupBy(schemas.STAGE)
        .agg(newest)
        .select("run.*")
        .collect()
    )
    names = list(StageRun.__dataclass_fields__)
    return {row[schemas.STAGE]: StageRun(**{name: row[name] for name in names}) for row in rows}


def last_day_read(lake: Lake, run_date: date) -> date | None:
    """The last day of logs that an earlier night has turned into events; ``None``: no night has.

    A night that was ingested before keeps the answer it was given then, whatever nights ran
    since: a re-run reads the same days. A night whose silver failed has read nothing, so its day
    is caught up by the next one.
    """
    runs = lake.read(schemas.OPS_RUNS).where(F.col(schemas.STATUS) == SUCCEEDED)
    own = (F.col(schemas.STAGE) == "ingest") & (F.col(schemas.RUN_DATE) == F.lit(run_date))
    answer = F.max_by(F.col(schemas.DETAILS)[DAYS_AFTER], "finished_at").alias("answer")
    found = runs.where(own).agg(answer).first()
    if found and found.answer is not None:
        return date.fromisoformat(found.answer) if found.answer else None
    earlier = runs.where(
        (F.col(schemas.STAGE) == "build_silver") & (F.col(schemas.RUN_DATE) < F.lit(run_date))
    ).agg(F.max(schemas.RUN_DATE))
    newest = earlier.first()
    return newest[0] if newest else None


def check_schema_version(lake: Lake) -> None:
    """Refuse a lake that a newer version of this project has written; stamp a new one.

    Raises:
        LakeError: the lake's schema version is higher than this code's.
    """
    key = "schema_version"
    row = lake.read(schemas.OPS_LAKE).where(F.col(schemas.KEY) == key).first()
    if row is None:
        fact = lake.spark.createDataFrame(
            [(key, str(schemas.SCHEMA_VERSION))], schemas.OPS_LAKE.ddl
        )
        lake.append(schemas.OPS_LAKE, fact.coalesce(1))
    elif int(row[1]) > schemas.SCHEMA_VERSION:
        raise LakeError(
            f"the lake has schema version {row[1]}, this code knows up to {schemas.SCHEMA_VERSION}",
            where=lake.path(schemas.OPS_LAKE),
            do="install the newer recsys that wrote it; nothing was changed",
        )
