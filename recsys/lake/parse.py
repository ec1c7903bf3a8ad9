"""Raw records to typed columns, or to the reason why not; Spark SQL functions only."""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, timezone

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.lake import formats
from recsys.lake.formats import OPTIONAL, REQUIRED, LogFormat

_FIELDS = "_fields"
_CORRUPT = "_corrupt"


def parse_records(
    records: DataFrame,
    log: LogFormat,
    header: list[str] | None,
    run_date: date,
    future_tolerance_seconds: int,
) -> DataFrame:
    """Add raw_user_id, item_id, event_type, rating, value, event_ts (UTC) and reason.

    ``reason`` is null for a good record, else the first rule that it breaks.
    """
    fields = _extract(records, log, header)
    texts = {name: _text(log, name) for name in (*REQUIRED, *OPTIONAL)}
    # The event type goes through a map: a word the format does not know becomes null.
    words = F.create_map(*[F.lit(x) for pair in log.event_types.items() for x in pair])
    typed = fields.select(
        *records.columns,
        F.col(f"{_FIELDS}.{_CORRUPT}").alias(_CORRUPT),
        texts[schemas.USER_ID].alias(schemas.RAW_USER_ID),
        texts[schemas.ITEM_ID].alias(schemas.ITEM_ID),
        F.try_element_at(words, texts[schemas.EVENT_TYPE]).alias(schemas.EVENT_TYPE),
        _timestamp(texts[schemas.EVENT_TS], log).alias(schemas.EVENT_TS),
        texts[schemas.RATING].alias("_rating"),
        texts[schemas.VALUE].alias("_value"),
    ).withColumns(
        {
            schemas.RATING: F.expr("try_cast(_rating as float)"),
            schemas.VALUE: F.expr("try_cast(_value as double)"),
        }
    )
    end = datetime.combine(run_date + timedelta(days=1), time(), timezone.utc)
    limit = end + timedelta(seconds=future_tolerance_seconds)
    reason = _reason(F.lit(limit))
    return typed.withColumn(schemas.REASON, reason).drop(_CORRUPT, "_rating", "_value")


def _extract(records: DataFrame, log: LogFormat, header: list[str] | None) -> DataFrame:
    """Add the struct ``_fields``: the log's columns as strings, and the corrupt record if any."""
    if log.kind == "csv" and header is None:
        names = [f"c{i}" for i in range(1 + max(int(at) for at in log.columns.values()))]
    else:
        names = header or [str(name) for name in log.columns.values()]
    ddl = ", ".join(f"`{name}` string" for name in [*names, _CORRUPT])
    options = {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": _CORRUPT}
    raw = F.col(schemas.RAW)
    if log.kind == "csv":
        return records.withColumn(_FIELDS, F.from_csv(raw, ddl, {"sep": log.delimiter, **options}))
    return records.withColumn(_FIELDS, F.from_json(raw, ddl, options))


def _text(log: LogFormat, name: str) -> Column:
    """The log's value for one of our columns, trimmed; an empty one is null."""
    if name in log.constants:
        return F.lit(log.constants[name])
    at = log.columns.get(name)
    if at is None:
        return F.lit(None).cast("string")
    field = F.col(_FIELDS).getField(f"c{at}" if isinstance(at, int) else at)
    trimmed = F.trim(field)
    return F.when(trimmed != "", trimmed)


def _timestamp(text: Column, log: LogFormat) -> Column:
    if log.timestamp == "unix_seconds":
        return F.timestamp_seconds(text.try_cast("bigint"))
    if log.timestamp == "unix_millis":
        return F.timestamp_millis(text.try_cast("bigint"))
    if log.timestamp == "iso8601":
        parsed, has_zone = text.try_cast("timestamp"), False
    else:
        parsed = F.try_to_timestamp(text, F.lit(log.timestamp))
        has_zone = any(letter in log.timestamp for letter in "XxZzVO")
    if log.time_zone == "UTC" or has_zone:
        return parsed
    return F.to_utc_timestamp(parsed, log.time_zone)


def _reason(limit: Column) -> Column:
    rating, raw = F.col("_rating"), F.col(schemas.RAW)
    is_rating = F.col(schemas.EVENT_TYPE) == "rating"
    rules = [
        (raw.contains("\u0000"), formats.BINARY),
        (F.col(_CORRUPT).isNotNull() | raw.isNull() | (F.trim(raw) == ""), formats.MALFORMED),
        (F.col(schemas.RAW_USER_ID).isNull(), formats.MISSING_USER_ID),
        (F.col(schemas.ITEM_ID).isNull(), formats.MISSING_ITEM_ID),
        (F.col(schemas.EVENT_TYPE).isNull(), formats.UNKNOWN_EVENT_TYPE),
        (F.col(schemas.EVENT_TS).isNull(), formats.BAD_TIMESTAMP),
        (
            (rating.isNotNull() & ~F.coalesce(F.col(schemas.RATING).between(1, 5), F.lit(False)))
            | (is_rating & rating.isNull()),
            formats.BAD_RATING,
        ),
        (F.col("_value").isNotNull() & F.col(schemas.VALUE).isNull(), formats.BAD_VALUE),
        (F.col(schemas.EVENT_TS) >= limit, formats.AFTER_RUN_DATE),
    ]
    reason = F.lit(None).cast("string")
    for broken, name in reversed(rules):
        reason = F.when(broken, F.lit(name)).otherwise(reason)
    return reason
