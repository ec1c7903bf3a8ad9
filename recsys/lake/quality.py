"""Quality checks of a night's tables; their results are rows of ops/checks.

All checks of a table are aggregates of one pass over the night's rows. What the stage has counted
already is not counted again, and drift reads the figures of earlier nights from ops/checks, never
their events.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys import checks, schemas
from recsys.checks import Check, TableChecks
from recsys.lake.judge import HISTORY_DAYS, Past, Verdict
from recsys.lake.local import local_frame
from recsys.lake.measure import Measurement
from recsys.lake.tables import Lake

_PARTITIONS = 4
"""Of what is shuffled: a slice of keys at most, and one row a group."""


@dataclass(frozen=True)
class CheckResult:
    """A row of ops/checks."""

    run_date: date
    stage: str
    table: str
    table_version: int
    check: str
    status: str
    value: float | None
    limit: str
    message: str
    figures: Mapping[str, float]

    def __str__(self) -> str:
        allowed = f"; allowed: {self.limit}" if self.limit else ""
        return f"{self.table}, {self.check}: {self.message}{allowed}"


@dataclass(frozen=True)
class History:
    """What ops/checks knew before the night's steps ran.

    Attributes:
        past: by stage, table and check the results of the last weeks' nights, oldest first.
        tried: stages of this night that have results already, of an earlier try.
    """

    past: Mapping[tuple[str, str], Mapping[str, Sequence[Past]]]
    tried: frozenset[str]


def read_history(lake: Lake, run_date: date) -> History:
    """The results that a night is compared with, in one query."""
    day = F.col(schemas.RUN_DATE)
    since = run_date - timedelta(days=HISTORY_DAYS)
    near = (day >= F.lit(since)) & (day <= F.lit(run_date))
    rows = lake.read(schemas.OPS_CHECKS).where(near).collect()
    past: dict[tuple[str, str], dict[str, list[Past]]] = {}
    for row in sorted(rows, key=lambda row: row[schemas.RUN_DATE]):
        if row[schemas.RUN_DATE] < run_date:
            night = Past(row[schemas.RUN_DATE], row[schemas.VALUE], row[schemas.FIGURES])
            of_table = past.setdefault((row[schemas.STAGE], row[schemas.TABLE]), {})
            of_table.setdefault(row[schemas.CHECK], []).append(night)
    mine = (row[schemas.STAGE] for row in rows if row[schemas.RUN_DATE] == run_date)
    return History(past, frozenset(mine))


def check_tables(
    lake: Lake,
    run_date: date,
    stage: str,
    versions: Mapping[str, int],
    figures: Mapping[str, int],
    history: History,
) -> list[CheckResult]:
    """Check what a stage has written.

    Args:
        versions: table to the Delta version to look at; a table that is not named is looked at as
            it is now, one that was never written is left out.
        figures: what the stage has counted, by the names that the checks use.
    """
    looker = Lake(_quick_session(lake.spark), lake.settings)

    def check(declared: TableChecks) -> list[CheckResult]:
        name = declared.table.name
        version = versions.get(name, lake.version(declared.table))
        if version < 0:
            return []
        rows, past = looker.read(declared.table, version), history.past.get((stage, name), {})
        measurement = Measurement(declared, rows, run_date, figures, past)
        judged = measurement.judge_all(measurement.query().collect())
        return [_result(run_date, declared, version, *verdict) for verdict in judged]

    # A query each: they mostly wait for being planned, which one union would do table by table.
    tables = [functools.partial(check, declared) for declared in checks.of_stage(stage)]
    return [result for results in lake.in_parallel(*tables) for result in results]


def record_checks(
    lake: Lake, run_date: date, stage: str, results: Sequence[CheckResult], history: History
) -> None:
    """Note a stage's results, instead of those of an earlier try."""
    names = list(CheckResult.__dataclass_fields__)
    rows = [[getattr(result, name) for name in names] for result in results]
    frame = local_frame(lake.spark, rows, schemas.OPS_CHECKS.ddl).coalesce(1)
    if stage not in history.tried:
        lake.append(schemas.OPS_CHECKS, frame)
        return
    where = f"{schemas.RUN_DATE} = '{run_date}' and {schemas.STAGE} = '{stage}'"
    lake.replace(schemas.OPS_CHECKS, frame, where)


def read_checks(lake: Lake, run_date: date) -> list[CheckResult]:
    """The results of a night, in the order of stages and tables."""
    rows = lake.read(schemas.OPS_CHECKS).where(F.col(schemas.RUN_DATE) == F.lit(run_date)).collect()
    names = list(CheckResult.__dataclass_fields__)
    results = [CheckResult(**{name: row[name] for name in names}) for row in rows]
    order = {(d.stage, d.table.name): at for at, d in enumerate(checks.CHECKS)}
    return sorted(results, key=lambda r: (order.get((r.stage, r.table), len(order)), r.check))


def _result(
    run_date: date, declared: TableChecks, version: int, check: Check, verdict: Verdict
) -> CheckResult:
    return CheckResult(
        run_date,
        declared.stage,
        declared.table.name,
        version,
        check.name,
        verdict.status,
        None if verdict.value is None else float(verdict.value),
        verdict.limit,
        verdict.message,
        {name: float(value) for name, value in verdict.figures.items()},
    )


def _quick_session(spark: SparkSession) -> SparkSession:
    """Settings for queries that end in a few rows: they mostly wait for being planned."""
    quick = spark.newSession()
    quick.conf.set("spark.sql.adaptive.enabled", "false")
    quick.conf.set("spark.sql.shuffle.partitions", _PARTITIONS)
    return quick
