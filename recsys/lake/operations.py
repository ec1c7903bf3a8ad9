"""ops/runs: what each stage of each night did, and whether it need be done again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from pyspark.sql import Row
from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import ConflictError, LakeError
from recsys.lake.local import local_frame
from recsys.lake.tables import Lake

SUCCEEDED = "succeeded"
FAILED = "failed"
DAYS_AFTER = "days_after"
"""A detail of ingest: it read the days after this one; empty: from the start."""
CAUGHT_UP_BY = "caught_up_by"
"""A detail of build_gold: the later night that has read all events of this one, which so ends."""


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


def caught_up_by(runs: Mapping[str, StageRun]) -> str:
    """The later night that has read all events of a night with these stages; empty: none has."""
    gold = runs.get("build_gold")
    if gold is None or gold.status != SUCCEEDED:
        return ""
    return gold.details.get(CAUGHT_UP_BY, "")


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
    stages = [_to_run(row) for row in rows]
    mine = [stage for stage in stages if stage.run_date == run_date]
    begun = {stage.stage: stage for stage in mine if stage.fingerprint}
    for stage in reversed(mine):
        if stage.stage == "ingest" and stage.status == SUCCEEDED:
            day = stage.details[DAYS_AFTER]
            return Night(begun, date.fromisoformat(day) if day else None)
    earlier = (stage.run_date for stage in stages if stage.run_date < run_date)
    return Night(begun, max(earlier, default=None))


def read_earlier(lake: Lake, run_date: date, stages: Sequence[str]) -> list[StageRun]:
    """Successes of ``stages`` in nights before ``run_date``; by date, then as they finished."""
    wanted = (
        (F.col(schemas.RUN_DATE) < F.lit(run_date))
        & F.col(schemas.STAGE).isin(*stages)
        & (F.col(schemas.STATUS) == SUCCEEDED)
    )
    rows = lake.read(schemas.OPS_RUNS).where(wanted).collect()
    rows.sort(key=lambda row: (row.run_date, row.finished_at))
    return [_to_run(row) for row in rows]


def _to_run(row: Row) -> StageRun:
    return StageRun(**{name: row[name] for name in StageRun.__dataclass_fields__})


def newest_night(lake: Lake, stage: str) -> date | None:
    """The newest night of which a stage has succeeded."""
    done = (F.col(schemas.STAGE) == stage) & (F.col(schemas.STATUS) == SUCCEEDED)
    row = lake.read(schemas.OPS_RUNS).where(done).agg(F.max(schemas.RUN_DATE)).first()
    return None if row is None else row[0]


def check_schema_version(lake: Lake) -> None:
    """Refuse a lake of another schema version; stamp a new one.

    Raises:
        LakeError: the lake's schema version is higher than this code's, or lower.
    """
    found = int(state_fact(lake, SCHEMA_VERSION_FACT, str(schemas.SCHEMA_VERSION)))
    if found > schemas.SCHEMA_VERSION:
        raise LakeError(
            f"the lake has schema version {found}, this code knows up to {schemas.SCHEMA_VERSION}",
            where=lake.path(schemas.OPS_LAKE),
            do="install the newer recsys that wrote it; nothing was changed",
        )
    if found < schemas.SCHEMA_VERSION:
        raise LakeError(
            f"the lake has schema version {found}, this code writes {schemas.SCHEMA_VERSION}",
            where=lake.path(schemas.OPS_LAKE),
            do=f"bring it up to date first: recsys lake migrate --lake {lake.settings.lake.root}",
        )


SCHEMA_VERSION_FACT = "schema_version"


def read_schema_version(lake: Lake) -> int | None:
    """The version of this project's tables that the lake has; ``None`` for no lake."""
    facts = lake.read(schemas.OPS_LAKE).where(F.col(schemas.KEY) == SCHEMA_VERSION_FACT)
    row = facts.first()
    return None if row is None else int(row[1])


def state_fact(lake: Lake, key: str, value: str) -> str:
    """What ops/lake says about the whole lake; where it says nothing, it says ``value`` now."""
    table = schemas.OPS_LAKE
    while True:
        version = lake.version(table)
        row = None
        if version >= 0:
            row = lake.read(table, version).where(F.col(schemas.KEY) == key).first()
        if row is not None:
            return str(row[1])
        try:
            lake.append(table, local_frame(lake.spark, [(key, value)], table.ddl), after=version)
        except ConflictError:
            continue
        return value
