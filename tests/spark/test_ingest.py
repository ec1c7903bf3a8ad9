"""Raw files to bronze: the right files, every line with its true number."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from recsys import schemas
from recsys.errors import InputError
from recsys.lake.bronze import ingest_files
from recsys.lake.files import find_files
from recsys.lake.formats import LogFormat
from recsys.lake.tables import Lake
from tests.spark.tiny_logs import (
    DAY,
    NAMES,
    NUMBERED,
    csv_format,
    event,
    ingest,
    log_format,
    parse,
    write_json,
)

pytestmark = pytest.mark.spark


EVENTS = [
    event("u1", "a", "10:00:00", "view"),
    event("u1", "b", "10:00:05.250", "rating", rating=4.5),
    event("u 2", "ü–😀", "10:00:10", "purchase", value=12.25),
    event("u3", "a", "10:00:15.000001", "click"),
]
EXPECTED = [
    ("u1", "a", "view", datetime(2026, 3, 5, 10), None, None),
    ("u1", "b", "rating", datetime(2026, 3, 5, 10, 0, 5, 250_000), 4.5, None),
    ("u 2", "ü–😀", "purchase", datetime(2026, 3, 5, 10, 0, 10), None, 12.25),
    ("u3", "a", "click", datetime(2026, 3, 5, 10, 0, 15, 1), None, None),
]


def cells(record: dict[str, Any], names: tuple[str, ...] = NAMES) -> list[str]:
    return [str(record.get(name, "")) for name in names]


def write_kind(kind: str, folder: Path) -> LogFormat:
    folder.mkdir(parents=True)
    if kind in ("json", "gzip"):
        path = write_json(folder / "log.json", EVENTS)
        if kind == "gzip":
            (folder / "log.json.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
        return log_format()
    if kind == "parquet":
        columns = {name: [record.get(name) for record in EVENTS] for name in NAMES}
        columns["ts"] = [row[3] for row in EXPECTED]
        pq.write_table(pa.table(columns), folder / "log.parquet")
        return log_format(kind="parquet", files="*.parquet")
    names = NAMES if kind != "csv in another order" else NAMES[::-1]
    delimiter = "\t" if kind == "tsv" else ","
    rows = [cells(record, names) for record in EVENTS]
    rows = rows if kind == "tsv" else [list(names), *rows]
    (folder / "log").write_text("".join(delimiter.join(row) + "\n" for row in rows))
    if kind == "tsv":
        return csv_format(header=False, delimiter="\t", columns=NUMBERED)
    return csv_format()


@pytest.mark.parametrize("kind", ["json", "gzip", "csv", "csv in another order", "tsv", "parquet"])
def test_every_kind_of_file_gives_the_same_events(
    kind: str, make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    log = write_kind(kind, tmp_path / "logs")
    parsed = parse(log, ingest(make_lake(), log, tmp_path / "logs"))
    rows = parsed.orderBy(schemas.SOURCE_OFFSET).collect()
    names = [schemas.RAW_USER_ID, schemas.ITEM_ID, schemas.EVENT_TYPE, schemas.EVENT_TS,
             schemas.RATING, schemas.VALUE]  # fmt: skip
    assert [tuple(row[name] for name in names) for row in rows] == EXPECTED
    assert [row[schemas.REASON] for row in rows] == [None] * 4
    first = 2 if kind.startswith("csv") else 1
    assert [row[schemas.SOURCE_OFFSET] for row in rows] == list(range(first, first + 4))


@pytest.fixture(params=["100b", "1k"])
def tiny_splits(spark: SparkSession, request: pytest.FixtureRequest) -> Iterator[None]:
    key = "spark.sql.files.maxPartitionBytes"
    before = spark.conf.get(key)
    spark.conf.set(key, request.param)
    yield
    spark.conf.set(key, before)


@pytest.mark.usefixtures("tiny_splits")
def test_offset_is_the_line_number_also_when_spark_cuts_a_file(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    folder = tmp_path / "with space, 100%25 & ü+é"
    for name, lines in (("one.json", 60), ("b#2.json", 1), ("three 3%.json", 33)):
        write_json(folder / name, [f"{name} {n} {'x' * (n % 17)}" for n in range(1, lines + 1)])
    (folder / "four.json.gz").write_bytes(
        gzip.compress("".join(f"four.json.gz {n} y\n" for n in range(1, 51)).encode())
    )
    rows = ingest(make_lake(), log_format(), folder).collect()
    assert len(rows) == 60 + 1 + 33 + 50
    for row in rows:
        number = row[schemas.RAW].removeprefix(row[schemas.SOURCE_FILE]).split()[0]
        assert row[schemas.SOURCE_OFFSET] == int(number)


@pytest.mark.usefixtures("tiny_splits")
def test_offset_of_a_parquet_row_is_its_number_in_the_file(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    for name, rows in (("a b.parquet", 40), ("c.parquet", 7)):
        table = pa.table({"user": [f"{name}:{n}" for n in range(1, rows + 1)]})
        pq.write_table(table, folder / name, row_group_size=10)
    log = log_format(kind="parquet", files="*.parquet")
    found = ingest(make_lake(), log, folder).collect()
    assert len(found) == 47
    for row in found:
        user = f"{row[schemas.SOURCE_FILE]}:{row[schemas.SOURCE_OFFSET]}"
        assert row[schemas.RAW] == f'{{"user":"{user}"}}'


def test_many_small_files_are_written_by_few_tasks_and_keep_their_numbers(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    for file in range(20):
        lines = (f"{file:02d}.json {n}" for n in range(1, 2 + file % 5))
        write_json(tmp_path / f"logs/{file:02d}.json", lines)
    rows = ingest(make_lake(), log_format(), tmp_path / "logs")
    found = [
        (r[schemas.SOURCE_FILE], r[schemas.SOURCE_OFFSET], r[schemas.RAW]) for r in rows.collect()
    ]
    assert len(found) == 60
    assert all(raw == f"{name} {offset}" for name, offset, raw in found)
    assert len(rows.inputFiles()) <= 2 * rows.sparkSession.sparkContext.defaultParallelism


def test_blank_lines_keep_their_numbers(make_lake: Callable[..., Lake], tmp_path: Path) -> None:
    write_json(tmp_path / "logs/a.json", [EVENTS[0], "", EVENTS[1]])
    (tmp_path / "logs/b.json").write_text("")
    parsed = parse(log_format(), ingest(make_lake(), log_format(), tmp_path / "logs"))
    rows = parsed.orderBy(schemas.SOURCE_OFFSET).collect()
    assert [(r[schemas.SOURCE_OFFSET], r[schemas.REASON]) for r in rows] == [
        (1, None), (2, "malformed"), (3, None)
    ]  # fmt: skip


def test_ingest_again_replaces_the_night_alone(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    lake, log, root = make_lake(), log_format(), tmp_path / "logs"
    write_json(root / "a.json", EVENTS)
    ingest(lake, log, root, DAY - timedelta(days=1))
    ingest(lake, log, root)
    write_json(root / "a.json", EVENTS[:3])
    assert ingest(lake, log, root).count() == 3
    assert lake.read(schemas.BRONZE_EVENTS).count() == 7


def daily(root: Path, *days: int) -> Path:
    for day in days:
        write_json(root / f"dt=2026-03-{day:02d}/part.json", EVENTS)
    return root


DAILY = log_format(layout="daily", files="dt={date}/*.json")


def names(spark: SparkSession, root: Path, since: int | None, day: int) -> list[str]:
    before = None if since is None else date(2026, 3, since)
    return [f.name for f in find_files(spark, DAILY, str(root), before, date(2026, 3, day))]


def test_daily_layout_catches_up_missed_days(spark: SparkSession, tmp_path: Path) -> None:
    root = daily(tmp_path, 1, 2, 4, 5, 6)
    (root / "dt=2026-03-05/_hidden.json").write_text("no")
    (root / "dt=2026-03-05/.part.json.crc").write_text("no")
    (root / "dt=unknown").mkdir()
    (root / "dt=unknown/part.json").write_text("no")
    assert names(spark, root, None, 2) == ["dt=2026-03-01/part.json", "dt=2026-03-02/part.json"]
    assert names(spark, root, 4, 5) == ["dt=2026-03-05/part.json"]
    assert names(spark, root, 2, 5) == ["dt=2026-03-04/part.json", "dt=2026-03-05/part.json"]


def test_daily_layout_without_the_nights_own_day_is_refused(
    spark: SparkSession, tmp_path: Path
) -> None:
    root = daily(tmp_path, 1, 2, 4)
    with pytest.raises(InputError) as caught:
        names(spark, root, 2, 5)
    assert caught.value.what == "no data for 2026-03-05"
    assert caught.value.where == f"{root}/dt=2026-03-05/*.json"
    assert "the log has 2026-03-01 to 2026-03-04" in caught.value.do


def test_date_may_stand_anywhere_and_twice_in_a_daily_pattern(
    spark: SparkSession, tmp_path: Path
) -> None:
    for region, day in (("eu", 4), ("eu", 5), ("us", 5)):
        write_json(tmp_path / f"{region}/2026-03-0{day}/log-2026-03-0{day}.json", EVENTS)
    write_json(tmp_path / "us/2026-03-05/log-2026-03-04.json", EVENTS)
    log = log_format(layout="daily", files="*/{date}/log-{date}.json")
    found = find_files(spark, log, str(tmp_path), date(2026, 3, 4), DAY)
    assert [file.name for file in found] == [
        "eu/2026-03-05/log-2026-03-05.json", "us/2026-03-05/log-2026-03-05.json"
    ]  # fmt: skip


def test_snapshot_layout_reads_all_matching_files_or_one_file(
    spark: SparkSession, tmp_path: Path
) -> None:
    for name in ("b.json", "a.json", "c.txt", "_d.json"):
        write_json(tmp_path / name, EVENTS)
    found = find_files(spark, log_format(), str(tmp_path), None, DAY)
    assert [file.name for file in found] == ["a.json", "b.json"]
    single = find_files(spark, log_format(), str(tmp_path / "c.txt"), None, DAY)
    assert [file.name for file in single] == ["c.txt"]
    assert single[0].size == (tmp_path / "c.txt").stat().st_size


def test_corrupt_files_are_named(make_lake: Callable[..., Lake], tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    write_json(folder / "good.json", EVENTS)
    whole = gzip.compress(b"".join(b"%d\n" % n for n in range(50_000)))
    lake = make_lake()
    for content, what in (
        (b"this is not gzip", "a file is not what its name says: not gzip"),
        (whole[: len(whole) // 2], "a gzip file is cut off"),
    ):
        (folder / "bad.json.gz").write_bytes(content)
        with pytest.raises(InputError) as caught:
            ingest(lake, log_format(), folder)
        assert caught.value.what == what
        assert caught.value.where.endswith("/bad.json.gz")
    (folder / "bad.parquet").write_bytes(b"PAR1 is how it begins")
    with pytest.raises(InputError) as caught:
        ingest(lake, log_format(kind="parquet", files="*.parquet"), folder)
    assert caught.value.what == "a file is not Parquet"
    assert caught.value.where.endswith("/bad.parquet")
    assert lake.read(schemas.BRONZE_EVENTS).count() == 0


def test_file_that_vanishes_is_an_input_error(
    make_lake: Callable[..., Lake], tmp_path: Path
) -> None:
    lake, log = make_lake(), log_format()
    path = write_json(tmp_path / "logs/a.json", EVENTS)
    files = find_files(lake.spark, log, str(tmp_path / "logs"), None, DAY)
    path.unlink()
    with pytest.raises(InputError, match="a file is missing"):
        ingest_files(lake, log, files, DAY)
