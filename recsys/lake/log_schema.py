"""The schema of a night's raw log, as its records, header or footers show it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys import schemas
from recsys.lake.bronze import drop_headers, merged_parquet, split_header
from recsys.lake.files import RawFile
from recsys.lake.formats import LogFormat

SAMPLE = 20_000
"""JSON records looked at: a column that 1 of 100 has is missed with a chance of 1e-87."""
TEXT, NUMBER = "text", "number"
_RARE = 0.01
_OR = " | "


@dataclass(frozen=True)
class LogColumn:
    """A column of a log.

    Attributes:
        types: type to the share of the column's values that have it. Widened numbers are one type.
        share: of the records looked at, those that have a value; null and absent are none.
    """

    name: str
    types: dict[str, float]
    share: float

    @property
    def type(self) -> str:
        """The types of more than a stray value."""
        return _OR.join(sorted(t for t, share in self.types.items() if share >= _RARE))

    def __str__(self) -> str:
        return f"{self.type}, {self.share:.1%}"


@dataclass(frozen=True)
class LogSchema:
    """The columns of a night's log, and how many records were looked at."""

    run_date: date
    columns: dict[str, LogColumn]
    records: int
    accepted: bool = False

    def rows(self) -> list[tuple[date, str, str, float, int, bool]]:
        """As rows of ops/log_schemas."""
        return [
            (self.run_date, column.name, column.type, column.share, self.records, self.accepted)
            for column in self.columns.values()
        ]

    @staticmethod
    def from_rows(rows: Iterable[T.Row]) -> dict[date, LogSchema]:
        """Nights as ops/log_schemas knows them."""
        nights: dict[date, LogSchema] = {}
        for row in rows:
            day = row[schemas.RUN_DATE]
            known = LogSchema(day, {}, row[schemas.RECORDS], row[schemas.ACCEPTED])
            types = dict.fromkeys(row[schemas.TYPE].split(_OR), 1.0)
            name = row[schemas.COLUMN]
            column = LogColumn(name, types, row[schemas.SHARE])
            nights.setdefault(day, known).columns[name] = column
        return nights


def read_log_schema(
    spark: SparkSession,
    log: LogFormat,
    files: Sequence[RawFile],
    bronze: DataFrame,
    records: int,
    run_date: date,
) -> LogSchema:
    """The night's schema: of JSON from a sample of records, chosen by a hash of their place.

    Args:
        bronze: the night's rows of bronze/events.
        records: how many they are.
    """
    if log.kind == "parquet":
        names = {f.name: kind_of(f.dataType) for f in merged_parquet(spark, files).schema}
        columns = {name: LogColumn(name, {kind: 1.0}, 1.0) for name, kind in names.items()}
        return LogSchema(run_date, columns, records)
    if log.kind == "csv" and log.header:
        return _of_headers(log, bronze, records, run_date)
    slices = max(1, records // SAMPLE)
    place = F.xxhash64(schemas.SOURCE_FILE, schemas.SOURCE_OFFSET)
    sample = drop_headers(bronze, log).where(F.pmod(place, F.lit(slices)) == 0)
    if log.kind == "csv":
        return _of_widths(log, sample, run_date)
    return _of_json(sample, run_date)


def kind_of(kind: T.DataType) -> str:
    """The type in words; one word for what a producer may widen."""
    for words, classes in (
        (TEXT, (T.StringType,)),
        (NUMBER, (T.NumericType,)),
        ("boolean", (T.BooleanType,)),
        ("time", (T.TimestampType, T.TimestampNTZType)),
        ("array", (T.ArrayType,)),
        ("object", (T.StructType, T.MapType)),
    ):
        if isinstance(kind, classes):
            return words
    return kind.simpleString()


def _of_headers(log: LogFormat, bronze: DataFrame, records: int, run_date: date) -> LogSchema:
    """A header speaks for all records of its file."""
    first = bronze.where(F.col(schemas.SOURCE_OFFSET) == 1)
    lines = first.groupBy(schemas.RAW).count().collect()
    files = sum(count for _, count in lines)
    having: dict[str, int] = defaultdict(int)
    for line, count in lines:
        for name in dict.fromkeys(split_header(line, log.delimiter)):
            having[name] += count
    columns = {name: LogColumn(name, {TEXT: 1.0}, n / files) for name, n in having.items()}
    return LogSchema(run_date, columns, records)


def _of_widths(log: LogFormat, sample: DataFrame, run_date: date) -> LogSchema:
    """By number; the width of most records (a quoted delimiter makes a record look wider)."""
    width = F.size(F.split(F.col(schemas.RAW), re.escape(log.delimiter), -1))
    widths = sample.groupBy(width.alias("width")).count().orderBy(F.desc("count"), "width")
    found = widths.collect()
    wide = found[0]["width"] if found else 0
    columns = {str(at): LogColumn(str(at), {TEXT: 1.0}, 1.0) for at in range(wide)}
    return LogSchema(run_date, columns, sum(row["count"] for row in found))


def _of_json(sample: DataFrame, run_date: date) -> LogSchema:
    """Keys and the types of their values, of the records that are objects with keys."""
    parsed = sample.select(F.try_parse_json(F.col(schemas.RAW)).alias("record"))
    exploded = parsed.sparkSession.tvf.variant_explode(F.col("record").outer())
    kind = F.regexp_extract(F.schema_of_variant("value"), "^[A-Z]+", 0).alias("kind")
    counted = (
        parsed.lateralJoin(exploded)
        .where(F.col("key").isNotNull())
        .groupBy("key", kind)
        .agg(F.count(F.lit(1)).alias("values"), F.count_if(F.col("pos") == 0).alias("records"))
        .collect()
    )
    records = sum(row["records"] for row in counted)  # each has one first key
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in counted:
        if row["kind"] != "VOID":
            counts[row["key"]][_JSON_KINDS.get(row["kind"], NUMBER)] += row["values"]
    columns = {}
    for name, types in sorted(counts.items()):
        values = sum(types.values())
        shares = {kind: n / values for kind, n in types.items()}
        columns[name] = LogColumn(name, shares, values / records)
    return LogSchema(run_date, columns, records)


_JSON_KINDS = {"STRING": TEXT, "BOOLEAN": "boolean", "ARRAY": "array", "OBJECT": "object"}
"""All others are numbers of some width."""
