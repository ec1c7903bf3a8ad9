"""Raw records to typed columns, or to the reason why not; Spark SQL functions only."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import ConfigError, first_line
from recsys.lake import formats
from recsys.lake.files import log_date
from recsys.lake.formats import OPTIONAL, REQUIRED, LogFormat

_FIELDS = "_fields"
_CORRUPT = "_corrupt"
_MOMENT = "_moment"
_TEXT = {name: f"_{name}_text" for name in (*REQUIRED, *OPTIONAL)}
_FIRST_MOMENT = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_SECOND = 253_402_300_799  # of the year 9999
_UNITS: dict[str, tuple[int, Callable[[Column], Column]]] = {
    "unix_seconds": (1, F.timestamp_seconds),
    "unix_millis": (1000, F.timestamp_millis),
}


def parse_records(
    records: DataFrame,
    log: LogFormat,
    header: list[str] | None,
    run_date: date,
    future_tolerance_seconds: int,
    late_days: int,
) -> DataFrame:
    """Add raw_user_id, item_id, event_type, rating, value, event_ts, event_date (UTC) and reason.

    ``reason`` is null for a good record, else the first rule that it breaks. An event of a daily
    log may be ``late_days`` older than the log's day.

    Raises:
        ConfigError: the log's ``timestamp`` is no pattern.
    """
    _check_pattern(records.sparkSession, log)
    fields = _extract(records, log, header)
    names = (*REQUIRED, *OPTIONAL)
    corrupt = F.col(f"{_FIELDS}.{_CORRUPT}").alias(_CORRUPT)
    # What is used twice gets a column of its own: Spark would compute it twice otherwise.
    texts = fields.select(
        *records.columns, corrupt, *[_text(log, name, header).alias(_TEXT[name]) for name in names]
    )
    # The event type goes through a map: a word the format does not know becomes null.
    words = F.create_map(*[F.lit(x) for pair in log.event_types.items() for x in pair])
    text = {name: F.col(_TEXT[name]) for name in names}
    typed = texts.select(
        *records.columns,
        _CORRUPT,
        text[schemas.USER_ID].alias(schemas.RAW_USER_ID),
        text[schemas.ITEM_ID].alias(schemas.ITEM_ID),
        F.try_element_at(words, text[schemas.EVENT_TYPE]).alias(schemas.EVENT_TYPE),
        _moment(text[schemas.EVENT_TS], log).alias(_MOMENT),
        *[text[name] for name in OPTIONAL],
        text[schemas.RATING].try_cast("float").alias(schemas.RATING),
        text[schemas.VALUE].try_cast("double").alias(schemas.VALUE),
    )
    moment = F.col(_MOMENT)
    dated = typed.withColumn(schemas.EVENT_TS, F.when(moment >= _FIRST_MOMENT, moment))
    end = datetime.combine(run_date + timedelta(days=1), time(), UTC)
    limit = end + timedelta(seconds=future_tolerance_seconds)
    too_late = F.lit(False)
    if log.layout == "daily":
        # Cheap first: only an event that is old on the run date has its file looked at.
        old = F.col(schemas.EVENT_DATE) < F.lit(run_date - timedelta(days=late_days))
        too_late = old & (F.col(schemas.EVENT_DATE) < F.date_sub(log_date(log), late_days))
    reason = _reason(F.lit(limit), too_late, log)
    helpers = (_CORRUPT, _MOMENT, *[_TEXT[name] for name in OPTIONAL])
    days = dated.withColumn(schemas.EVENT_DATE, F.to_date(schemas.EVENT_TS))
    return days.withColumn(schemas.REASON, reason).drop(*helpers)


def _extract(records: DataFrame, log: LogFormat, header: list[str] | None) -> DataFrame:
    """Add the struct ``_fields``: the log's columns as strings, and the corrupt record if any."""
    options = {"mode": "PERMISSIVE", "columnNameOfCorruptRecord": _CORRUPT}
    raw = F.col(schemas.RAW)
    if log.kind != "csv":
        names = [str(name).replace("`", "``") for name in log.columns.values()]
        return records.withColumn(_FIELDS, F.from_json(raw, _texts(names), options))
    # By place: a header may hold any name, twice or empty. Quotes are doubled, as RFC 4180 says.
    width = len(header) if header else log.count_columns()
    options |= {"sep": log.delimiter, "escape": '"'}
    places = [_place(at) for at in range(width)]
    return records.withColumn(_FIELDS, F.from_csv(raw, _texts(places), options))


def _texts(names: list[str]) -> str:
    return ", ".join(f"`{name}` string" for name in [*names, _CORRUPT])


def _place(at: int) -> str:
    return f"c{at}"


def _text(log: LogFormat, name: str, header: list[str] | None) -> Column:
    """The log's value for one of our columns, trimmed; an empty one is null."""
    if name in log.constants:
        return F.lit(log.constants[name])
    at = log.columns.get(name)
    if at is None:
        return F.lit(None).cast("string")
    if header:
        at = header.index(str(at))
    field = F.col(_FIELDS).getField(_place(at) if isinstance(at, int) else at)
    trimmed = F.trim(field)
    return F.when(trimmed != "", trimmed)


def _moment(text: Column, log: LogFormat) -> Column:
    """The moment, or null for what is none or lies after 9999; one before 1970 is no event's."""
    if log.timestamp in _UNITS:
        number = text.try_cast("bigint")
        a_second, convert = _UNITS[log.timestamp]
        possible = number.between(0, _LAST_SECOND * a_second)
        return F.when(possible, convert(number))
    return _local_moment(text, log)


def _local_moment(text: Column, log: LogFormat) -> Column:
    if log.timestamp == "iso8601":
        # Spark reads 10:00 as ten o'clock today, and 2026 as its first day.
        dated = (F.instr(text, "-") == 5) & (F.octet_length(text) >= len("2026-01-01"))
        parsed = F.when(dated, text.try_cast("timestamp"))
        if log.time_zone == "UTC":
            return parsed
        own_zone = text.rlike(r"[T ]\d{1,2}:\d{1,2}[0-9:.]*\s*[^0-9:.\s]")
        return F.when(own_zone, parsed).otherwise(F.to_utc_timestamp(parsed, log.time_zone))
    parsed = F.try_to_timestamp(text, F.lit(log.timestamp))
    letters = re.sub("'[^']*'", "", log.timestamp)
    if log.time_zone == "UTC" or any(letter in letters for letter in "XxZzVO"):
        return parsed
    return F.to_utc_timestamp(parsed, log.time_zone)


def _check_pattern(spark: SparkSession, log: LogFormat) -> None:
    if log.timestamp in (*_UNITS, "iso8601"):
        return
    try:
        # No job runs: Spark folds what holds no column.
        spark.range(1).select(F.try_to_timestamp(F.lit("x"), F.lit(log.timestamp))).collect()
    except PySparkException as error:
        raise ConfigError(
            f"timestamp: {log.timestamp!r} is no pattern",
            where=f"the log's format; {first_line(error)}",
            do="give iso8601, unix_seconds, unix_millis or e.g. yyyy-MM-dd HH:mm:ss",
        ) from None


def _is_finite(number: Column) -> Column:
    """False for null, NaN and infinities."""
    return F.coalesce(F.abs(number) < float("inf"), F.lit(False))


def _has_more_than_an_object(line: Column) -> Column:
    """Spark reads the first object of a line and is silent about what follows it."""
    trimmed = F.rtrim(line)
    # Only a line with a brace before its end (in a text, of an inner object) needs a closer look.
    before_brace = F.substring_index(trimmed, "}", 1)
    inner_brace = F.octet_length(before_brace) < F.octet_length(trimmed) - 1
    without_texts = F.regexp_replace(trimmed, r'"(?:[^"\\]|\\.)*+"', "")
    return ~trimmed.endswith("}") | (inner_brace & without_texts.rlike(r"\}\s*\{"))


def _reason(limit: Column, too_late: Column, log: LogFormat) -> Column:
    rating, value = (F.col(_TEXT[name]) for name in (schemas.RATING, schemas.VALUE))
    raw = F.col(schemas.RAW)
    broken_line = F.col(_CORRUPT).isNotNull() | raw.isNull() | (F.trim(raw) == "")
    if log.kind == "json":
        broken_line |= _has_more_than_an_object(raw)
    is_rating = F.col(schemas.EVENT_TYPE) == "rating"
    rules = [
        (raw.contains("\u0000"), formats.BINARY),
        (broken_line, formats.MALFORMED),
        (F.col(schemas.RAW_USER_ID).isNull(), formats.MISSING_USER_ID),
        (F.col(schemas.ITEM_ID).isNull(), formats.MISSING_ITEM_ID),
        (F.col(schemas.EVENT_TYPE).isNull(), formats.UNKNOWN_EVENT_TYPE),
        (F.col(schemas.EVENT_TS).isNull(), formats.BAD_TIMESTAMP),
        (
            (rating.isNotNull() & ~F.coalesce(F.col(schemas.RATING).between(1, 5), F.lit(False)))
            | (is_rating & rating.isNull()),
            formats.BAD_RATING,
        ),
        (value.isNotNull() & ~_is_finite(F.col(schemas.VALUE)), formats.BAD_VALUE),
        (F.col(schemas.EVENT_TS) >= limit, formats.AFTER_RUN_DATE),
        (too_late, formats.TOO_LATE),
    ]
    reason = F.lit(None).cast("string")
    for broken, name in reversed(rules):
        reason = F.when(broken, F.lit(name)).otherwise(reason)
    return reason
