"""ops/runs: what each stage of each night did, and whether it need be done again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import LakeError
from recsys.lake.local import local_frame
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
    lake.append(schemas.OPS_RUNS, local_frame(lake.spark, [row], schemas.OPS_RUNS.ddl))


@dataclass(frozen=True)
class Night:
    """What ops/runs knows of a night before it runs.

    Attributes:
        runs: the newest row of each stage that may have changed something. A stage that failed
            before it began (no fingerprint) leaves its last success valid; one that failed while
            it ran does not.
        days_after: the last day of logs that an earlier night has turned into events; this night
            reads the days after it. ``None``: from the start.
    """

    runs: dict[str, StageRun]
    days_after: date | None


def read_night(lake: Lake, run_date: date) -> Night:
    """A night's stages, and where its logs begin, in one query.

    A night that was ingested before keeps the ``days_after`` it was given then, whatever nights
    ran since: a re-run reads the same days. A night whose silver failed has read nothing, so its
    day is caught up by the next one.
    """
    own = F.col(schemas.RUN_DATE) == F.lit(run_date)
    read_before = (
        (F.col(schemas.RUN_DATE) < F.lit(run_date))
        & (F.col(schemas.STAGE) == "build_silver")
        & (F.col(schemas.STATUS) == SUCCEEDED)
    )
    rows = lake.read(schemas.OPS_RUNS).where(own | read_before).collect()
    rows.sort(key=lambda row: row.finished_at)
    names = list(StageRun.__dataclass_fields__)
    stages = [StageRun(**{name: row[name] for name in names}) for row in rows]
    mine = [stage for stage in stages if stage.run_date == run_date]
    begun = {stage.stage: stage for stage in mine if stage.fingerprint}
    for stage in reversed(mine):
        if stage.stage == "ingest" and stage.status == SUCCEEDED:
            day = stage.details[DAYS_AFTER]
            return Night(begun, date.fromisoformat(day) if day else None)
    earlier = (stage.run_date for stage in stages if stage.run_date < run_date)
    return Night(begun, max(earlier, default=None))


def check_schema_version(lake: Lake) -> None:
    """Refuse a lake that a newer version of this project has written; stamp a new one.

    Raises:
        LakeError: the lake's schema version is higher than this code's.
    """
    key = "schema_version"
    row = lake.read(schemas.OPS_LAKE).where(F.col(schemas.KEY) == key).first()
    if row is None:
        fact = (key, str(schemas.SCHEMA_VERSION))
        lake.append(schemas.OPS_LAKE, local_frame(lake.spark, [fact], schemas.OPS_LAKE.ddl))
    elif int(row[1]) > schemas.SCHEMA_VERSION:
        raise LakeError(
            f"the lake has schema version {row[1]}, this code knows up to {schemas.SCHEMA_VERSION}",
            where=lake.path(schemas.OPS_LAKE),
            do="install the newer recsys that wrote it; nothing was changed",
        )
