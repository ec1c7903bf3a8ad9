"""Raw lines to typed columns: quotes, headers, cells and times as the log says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from recsys import schemas
from recsys.errors import ConfigError, InputError
from recsys.lake.formats import LogFormat
from recsys.lake.tables import Lake
from tests.spark.tiny_logs import (
    DAY,
    NAMES,
    NUMBERED,
    csv_format,
    ingest,
    log_format,
    parse,
)

pytestmark = pytest.mark.spark


def parse_lines(spark: SparkSession, log: LogFormat, *lines: str) -> list[Any]:
    rows = [("f", number, line, DAY) for number, line in enumerate(lines, 1)]
    bronze = spark.createDataFrame(rows, schemas.BRONZE_EVENTS.ddl)
    return parse(log, bronze).orderBy(schemas.SOURCE_OFFSET).collect()


def test_quoted_csv_follows_rfc_4180(spark: SparkSession) -> None:
    rows = parse_lines(
        spark,
        csv_format(),
        '"user","item", type ,ts,rating,value',
        '"u,1","a ""quoted"" b",view,2026-03-05T00:00:00Z,,',
        'u1,"back\\slash",view,2026-03-05T00:00:00Z,,',
        '"open,a,view,2026-03-05T00:00:00Z,,',
    )
    assert [row[schemas.RAW_USER_ID] for row in rows[:2]] == ["u,1", "u1"]
    assert [row[schemas.ITEM_ID] for row in rows[:2]] == ['a "quoted" b', "back\\slash"]
    assert [row[schemas.REASON] for row in rows] == [None, None, "malformed"]


def test_header_may_hold_odd_and_repeated_names_that_nothing_reads(spark: SparkSession) -> None:
    rows = parse_lines(
        spark, csv_format(), "\ufeffuser,,x y`z,item,type,ts,rating,value,x,x",
        "u,1,2,a,view,2026-03-05T00:00:00Z,,,8,9",
    )  # fmt: skip
    assert (rows[0][schemas.RAW_USER_ID], rows[0][schemas.ITEM_ID]) == ("u", "a")
    assert rows[0][schemas.REASON] is None


def test_header_that_names_a_wanted_column_twice_is_refused(spark: SparkSession) -> None:
    with pytest.raises(InputError, match="item is twice in the header"):
        parse_lines(spark, csv_format(), "user,item,type,ts,rating,value,item", "u,a,view,t,,,b")


def test_csv_line_with_too_few_or_too_many_cells_is_malformed(spark: SparkSession) -> None:
    line = "u,a,view,2026-03-05T00:00:00Z,,"
    header = parse_lines(spark, csv_format(), ",".join(NAMES), line, line[:-1], f"{line},")
    assert [row[schemas.REASON] for row in header] == [None, "malformed", "malformed"]
    numbered = csv_format(header=False, columns=NUMBERED)
    rows = parse_lines(spark, numbered, line, line[:-1], f"{line},")
    assert [row[schemas.REASON] for row in rows] == [None, "malformed", "malformed"]


def test_csv_without_header_may_have_more_columns_than_are_read(spark: SparkSession) -> None:
    log = csv_format(header=False, columns=NUMBERED, width=8)
    line = "u,a,view,2026-03-05T00:00:00Z,,,x,y"
    rows = parse_lines(spark, log, line, line[:-2])
    assert [row[schemas.REASON] for row in rows] == [None, "malformed"]


def times(spark: SparkSession, log: LogFormat, *texts: str) -> list[datetime | None]:
    rows = parse_lines(spark, log, *(f'{{"user":"u","item":"a","ts":"{t}"}}' for t in texts))
    return [row[schemas.EVENT_TS] for row in rows]


def test_times_without_zone_are_of_the_logs_zone_and_others_are_not_moved(
    spark: SparkSession,
) -> None:
    log = log_format(time_zone="America/New_York")
    found = times(
        spark, log, "2026-03-05T10:00:00", "2026-03-05 10:00", "2026-07-05T10:00:00.5",
        "2026-03-05T10:00:00Z", "2026-03-05T10:00:00-05:00", "2026-03-05T10:00:00.25+0200",
        "2026-03-05", "2026-03-05T10:00:00 Europe/Berlin",
    )  # fmt: skip
    assert found == [
        datetime(2026, 3, 5, 15), datetime(2026, 3, 5, 15), datetime(2026, 7, 5, 14, 0, 0, 500_000),
        datetime(2026, 3, 5, 10), datetime(2026, 3, 5, 15), datetime(2026, 3, 5, 8, 0, 0, 250_000),
        datetime(2026, 3, 5, 5), datetime(2026, 3, 5, 9),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "text", "hour"),
    [
        ("yyyy-MM-dd'T'HH:mm:ssX", "2026-03-05T10:00:00+01", 9),
        ("dd/MM/yyyy HH:mm:ss", "05/03/2026 10:00:00", 15),
        ("yyyy-MM-dd'Z'HH:mm:ss", "2026-03-05Z10:00:00", 15),
    ],
)
def test_patterns_say_whether_a_time_has_its_zone(
    pattern: str, text: str, hour: int, spark: SparkSession
) -> None:
    log = log_format(timestamp=pattern, time_zone="America/New_York")
    assert times(spark, log, text) == [datetime(2026, 3, 5, hour)]


def test_unix_seconds_and_millis(spark: SparkSession) -> None:
    seconds = log_format(timestamp="unix_seconds", time_zone="Asia/Tokyo")
    assert times(spark, seconds, "1772704800", "0") == [
        datetime(2026, 3, 5, 10),
        datetime(1970, 1, 1),
    ]
    millis = log_format(timestamp="unix_millis")
    assert times(spark, millis, "1772704800125") == [datetime(2026, 3, 5, 10, 0, 0, 125_000)]


@pytest.mark.parametrize(
    "timestamp", ["iso8601", "unix_seconds", "unix_millis", "yyyy-MM-dd HH:mm"]
)
def test_impossible_times_are_bad_timestamps_never_an_error(
    timestamp: str, spark: SparkSession
) -> None:
    texts = ["", "soon", "99999999999999999", "9" * 40, "-99999999999999999", "10:00", "2026-13-01",
             "2026-13-01T00:00:00", "0001-01-01T00:00:00", "1969-12-31 23:59",
             "now", "-1"]  # fmt: skip
    texts += ["2026", "1e3"] if timestamp == "iso8601" else []
    assert times(spark, log_format(timestamp=timestamp), *texts) == [None] * len(texts)


def test_wrong_time_pattern_is_an_error_that_names_it(spark: SparkSession) -> None:
    with pytest.raises(ConfigError, match="timestamp: 'yyyy-qq-bb' is no pattern"):
        times(spark, log_format(timestamp="yyyy-qq-bb"), "2026-03-05")


def test_microseconds_of_parquet_timestamps_are_kept(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    (tmp_path / "logs").mkdir()
    at = datetime(2026, 3, 5, 10, 0, 0, 123_456)
    pq.write_table(pa.table({"user": ["u"], "ts": [at]}), tmp_path / "logs/a.parquet")
    log = log_format(kind="parquet", files="*.parquet")
    rows = parse(log, ingest(make_lake(), log, tmp_path / "logs")).collect()
    assert rows[0][schemas.EVENT_TS] == at
