"""Schema drift: a night's log beside the newest night before it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import InputError
from recsys.lake.files import RawFile
from recsys.lake.formats import LogFormat
from recsys.lake.local import local_frame
from recsys.lake.log_schema import LogColumn, LogSchema, read_log_schema
from recsys.lake.tables import Lake

_CHANCE = 1e-6
_FIRM = 0.05
_FIRM_VALUES = 3
FAIL = "fail"


@dataclass(frozen=True)
class Drift:
    """Columns of a night's log that differ from the night before; ``mapped``: the format's."""

    before: LogSchema
    after: LogSchema
    mapped: frozenset[str]
    new: tuple[str, ...]
    changed: tuple[str, ...]
    vanished: tuple[str, ...]

    def faults(self, unmapped: str) -> list[str]:
        """Changed and vanished columns that stop a night; ``unmapped``: fail or report."""
        found = sorted({*self.changed, *self.vanished})
        return [name for name in found if unmapped == FAIL or name in self.mapped]

    def describe(self, name: str) -> str:
        """What has become of a column, in words."""
        if name in self.new:
            return f"{name} is new ({self.after.columns[name]})"
        if name in self.vanished:
            return f"{name} vanished"
        return f"{name} is {self.after.columns[name].type}, was {self.before.columns[name].type}"

    def side_by_side(self) -> str:
        """Both schemas as a table; what differs is marked."""
        marks = {**dict.fromkeys(self.new, "+"), **dict.fromkeys(self.changed, "!")}
        marks |= dict.fromkeys(self.vanished, "-")
        rows = [("", "column", str(self.before.run_date), str(self.after.run_date))]
        for name in sorted({*self.before.columns, *self.after.columns}):
            read = "" if name in self.mapped else " (not read)"
            old, new = (str(s.columns.get(name, "")) for s in (self.before, self.after))
            rows.append((marks.get(name, ""), f"{name}{read}", old, new))
        widths = [max(len(row[at]) for row in rows) for at in range(4)]
        lines = ("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in rows)
        return "\n".join(f"    {line.rstrip()}" for line in lines)


def check_log_schema(
    lake: Lake, log: LogFormat, files: Sequence[RawFile], records: int, run_date: date
) -> Drift | None:
    """Compare the night's log with the newest night before whose schema was taken, and note it.

    Run after bronze is written: the records are kept, whatever becomes of the night.

    Returns:
        What differs; ``None`` for the first night.

    Raises:
        InputError: a column vanished or has another type, and nobody has accepted that.
    """
    bronze = lake.read(schemas.BRONZE_EVENTS).where(F.col(schemas.INGEST_DATE) == F.lit(run_date))
    known = read_log_schemas(lake, run_date)
    found = read_log_schema(lake.spark, log, files, bronze, records, run_date)
    own = known.pop(run_date, None)
    drift = compare(known, found, mapped_columns(log))
    ingest = lake.settings.ingest
    if drift and drift.faults(ingest.unmapped_drift):
        again = own and own.accepted and compare({own.run_date: own}, found, drift.mapped)
        taken = again and not again.faults(ingest.unmapped_drift)
        if not (ingest.accept_schema or taken):
            raise _refusal(lake, drift, run_date)
        found = replace(found, accepted=True)
    _note(lake, found, own)
    return drift


def mapped_columns(log: LogFormat) -> frozenset[str]:
    """The log's columns that the format reads, as ops/log_schemas names them."""
    return frozenset(str(at) for at in log.columns.values())


def read_log_schemas(lake: Lake, run_date: date) -> dict[date, LogSchema]:
    """By night the schemas that were taken, up to ``run_date``."""
    rows = lake.read(schemas.OPS_LOG_SCHEMAS).where(F.col(schemas.RUN_DATE) <= F.lit(run_date))
    return LogSchema.from_rows(rows.collect())


def compare(
    known: Mapping[date, LogSchema], after: LogSchema, mapped: frozenset[str]
) -> Drift | None:
    """What differs from the newest of the known nights; new is what none of them had."""
    if not known:
        return None
    before = known[max(known)]
    ever = {name for schema in known.values() for name in schema.columns}
    both = [name for name in before.columns if name in after.columns]
    return Drift(
        before,
        after,
        mapped,
        tuple(name for name in after.columns if name not in ever),
        tuple(n for n in both if _has_changed(before.columns[n], after.columns[n], after.records)),
        tuple(
            name
            for name, column in before.columns.items()
            if name not in after.columns
            and _is_no_chance(column.share, before.records, after.records)
        ),
    )


def _has_changed(before: LogColumn, after: LogColumn, records: int) -> bool:
    """A type that the column did not have, in more than stray values."""
    old = before.type
    values = after.share * records
    return any(
        kind not in old.split(" | ") and share >= _FIRM and share * values >= _FIRM_VALUES
        for kind, share in after.types.items()
    )


def _is_no_chance(share: float, before: int, after: int) -> bool:
    """Whether a column with such a share can't be absent by chance alone.

    Were its k values spread over the records of both nights by chance, all would lie in the first
    with a probability of at most (before / (before + after))^k (the bound of Fisher's exact test,
    The Design of Experiments, 1935); a night fails below 1e-6. With equal nights that are 20
    values. A column that each record had, three at least, is no optional one.
    """
    values = round(share * before)
    if share == 1.0:
        return before >= _FIRM_VALUES and after >= _FIRM_VALUES
    return values * math.log((before + after) / max(before, 1)) > -math.log(_CHANCE)


def _refusal(lake: Lake, drift: Drift, run_date: date) -> InputError:
    faults = drift.faults(lake.settings.ingest.unmapped_drift)
    return InputError(
        f"the log's schema is not that of {drift.before.run_date}: "
        + "; ".join(drift.describe(name) for name in faults),
        where=f"night of {run_date}; share: records with a value\n{drift.side_by_side()}",
        do="correct what writes the log, or the log's format; if the log is right as it is now, "
        f"take it: recsys ingest --date {run_date} --accept-schema. The records are in bronze, "
        "nothing of them went further",
    )


def _note(lake: Lake, found: LogSchema, own: LogSchema | None) -> None:
    table = schemas.OPS_LOG_SCHEMAS
    rows: DataFrame = local_frame(lake.spark, found.rows(), table.ddl).coalesce(1)
    if own is None:
        lake.append(table, rows)
    elif own.rows() != found.rows():
        lake.replace(table, rows, f"{schemas.RUN_DATE} = '{found.run_date}'")
