"""Rows replaced in several commits: a run that was cut off goes on, and never mixes with others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import ConflictError, LakeError
from recsys.lake.added_files import NewFiles, add_files, find_folder
from recsys.lake.faults import explain_write
from recsys.lake.parts import replace_in_parts
from recsys.lake.tables import Lake
from recsys.lake.worker_files import FILES_DDL, FileFolder

pytestmark = pytest.mark.spark

NIGHT = date(2026, 3, 5)
TABLE = schemas.GOLD_TOP_N
WHERE = f"run_date = '{NIGHT}'"


class Cut(Exception):
    """The process ends here."""


def frame(lake: Lake, users: list[str], day: date = NIGHT) -> DataFrame:
    rows: list[Any] = [(day, user, "1", []) for user in users]
    return lake.spark.createDataFrame(rows, TABLE.ddl)


def users_of(lake: Lake, day: date = NIGHT) -> list[str]:
    return sorted(row.user_id for row in lake.read(TABLE).where(f"run_date = '{day}'").collect())


def as_files(lake: Lake, rows: DataFrame) -> NewFiles:
    """The same rows, in files that a worker writes."""
    partition = {"run_date": str(NIGHT)}
    url = find_folder(lake, TABLE, partition)
    assert url is not None
    folder = FileFolder(url, filtered_by=("user_id",))
    return NewFiles(rows.drop("run_date").mapInArrow(folder.write, FILES_DDL), partition)


@pytest.fixture(params=[pytest.param(False, marks=pytest.mark.long), True], ids=["rows", "files"])
def by_files(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def make_parts(
    lake: Lake, made: list[int], by_files: bool, cut_before: int = 9
) -> list[Callable[[], DataFrame | NewFiles]]:
    def make(number: int) -> DataFrame | NewFiles:
        if number == cut_before:
            raise Cut
        made.append(number)
        rows = frame(lake, [f"{number}a", f"{number}b"])
        return as_files(lake, rows) if by_files else rows

    return [lambda number=number: make(number) for number in range(3)]  # type: ignore[misc]


WHOLE = [f"{number}{letter}" for number in range(3) for letter in "ab"]


def test_a_run_that_was_cut_off_goes_on(make_lake: Callable[..., Lake], by_files: bool) -> None:
    lake, made = make_lake(), []
    lake.append(TABLE, frame(lake, ["old"]))
    files = Path(lake.path(TABLE)).glob("run_date=*/*.parquet")
    assert lake.size(TABLE, 0) == sum(file.stat().st_size for file in files)
    with pytest.raises(Cut):
        replace_in_parts(lake, TABLE, make_parts(lake, made, by_files, cut_before=2), WHERE, "k")
    assert users_of(lake) == WHOLE[:4]
    # Other nights' commits come between.
    other = NIGHT + timedelta(days=1)
    replace_in_parts(
        lake, TABLE, [lambda: frame(lake, ["x"], other)], f"run_date = '{other}'", "other"
    )
    commit = replace_in_parts(lake, TABLE, make_parts(lake, made, by_files), WHERE, "k")
    assert made == [0, 1, 2]
    assert users_of(lake) == WHOLE
    assert users_of(lake, other) == ["x"]
    assert (commit.rows, commit.version) == (6, lake.version(TABLE))
    # What is complete is done again where somebody asks for it.
    again = replace_in_parts(lake, TABLE, make_parts(lake, made, by_files), WHERE, "k")
    assert made == [0, 1, 2, 0, 1, 2]
    assert again.rows == 6
    assert users_of(lake) == WHOLE


def test_parts_of_other_settings_are_replaced(
    make_lake: Callable[..., Lake], by_files: bool
) -> None:
    lake, made = make_lake(), []
    with pytest.raises(Cut):
        replace_in_parts(lake, TABLE, make_parts(lake, made, by_files, cut_before=1), WHERE, "k")
    replace_in_parts(lake, TABLE, make_parts(lake, made, by_files), WHERE, "another")
    assert made == [0, 0, 1, 2]
    assert users_of(lake) == WHOLE


def test_two_runs_do_not_mix(make_lake: Callable[..., Lake], by_files: bool) -> None:
    lake, made = make_lake(), []

    def run_meanwhile() -> None:
        replace_in_parts(lake, TABLE, make_parts(lake, [], by_files), WHERE, "another")

    def parts() -> list[Callable[[], DataFrame | NewFiles]]:
        first, second, third = make_parts(lake, made, by_files)

        def late() -> DataFrame:
            run_meanwhile()
            return second()

        return [first, late, third]

    with pytest.raises(ConflictError):
        replace_in_parts(lake, TABLE, parts(), WHERE, "k")
    assert users_of(lake) == WHOLE
    assert made == [0, 1]


def test_files_replace_their_partition_alone_and_are_known_to_delta(
    make_lake: Callable[..., Lake],
) -> None:
    lake, other = make_lake(), NIGHT + timedelta(days=1)
    lake.append(TABLE, frame(lake, ["old"]).unionByName(frame(lake, ["x"], other)))
    rows = frame(lake, ["b", "a", "c"]).repartition(2, "user_id")
    commit = add_files(lake, TABLE, as_files(lake, rows), replace=True, mark={"part": "1"})
    assert (commit.rows, commit.version) == (3, lake.version(TABLE))
    assert (users_of(lake), users_of(lake, other)) == (["a", "b", "c"], ["x"])
    history = lake.delta(TABLE).history(1).collect()[0]
    assert history.operation == "WRITE"
    assert json.loads(history.userMetadata)["part"] == "1"
    log = Path(lake.path(TABLE)) / f"_delta_log/{commit.version:020d}.json"
    added = [a["add"] for a in map(json.loads, log.read_text().splitlines()) if "add" in a]
    stats = [json.loads(add["stats"]) for add in added]
    assert sum(found["numRecords"] for found in stats) == 3
    assert min(found["minValues"]["user_id"] for found in stats) == "a"
    assert max(found["maxValues"]["user_id"] for found in stats) == "c"
    for add in added:
        assert (Path(lake.path(TABLE)) / add["path"]).stat().st_size == add["size"]
    # Delta leaves files out by these ranges: it finds each user all the same.
    assert [lake.read(TABLE).where(f"user_id = '{user}'").count() for user in "abcd"] == [
        1,
        1,
        1,
        0,
    ]
    # Its own writers and files go on with the table.
    lake.delta(TABLE).optimize().executeCompaction()
    lake.delta(TABLE).delete("user_id = 'b'")
    assert users_of(lake) == ["a", "c"]


def test_a_file_that_fails_leaves_the_table_and_its_folder_as_they_were(
    make_lake: Callable[..., Lake],
) -> None:
    lake = make_lake()
    lake.append(TABLE, frame(lake, ["old"]))
    new = as_files(lake, frame(lake, ["a"]))
    full = new.files.withColumn("file", F.raise_error(F.lit("No space left on device")))
    with pytest.raises(LakeError, match="the disk is full: table gold/top_n was not written"):
        add_files(lake, TABLE, NewFiles(full, new.partition), replace=True, mark={})
    assert users_of(lake) == ["old"]
    url = find_folder(lake, TABLE, {"run_date": "2026-03-06"})
    assert url is not None
    batches = frame(lake, ["a"]).drop("run_date").toArrow().to_batches()

    def cut() -> Iterator[pa.RecordBatch]:
        yield from batches
        raise Cut

    with pytest.raises(Cut):
        list(FileFolder(url).write(cut()))
    assert list(Path(lake.path(TABLE), "run_date=2026-03-06").iterdir()) == []


def test_a_store_that_does_not_know_the_key_is_no_permission() -> None:
    # What a real server (moto, which asks for keys) has made of a wrong one.
    said = OSError("AWS Error INVALID_ACCESS_KEY_ID during CreateMultipartUpload operation: The …")
    error = explain_write("gold/top_n", "s3a://lake/gold/top_n", said)
    assert error.what == "no permission to write table gold/top_n"


class Meanwhile:
    """Files that are written while something else happens."""

    def __init__(self, files: DataFrame, happens: Callable[[], object]) -> None:
        self._files, self._happens = files, happens

    def collect(self) -> list[Any]:
        self._happens()
        return self._files.collect()


def test_of_two_that_replace_a_partition_at_once_one_wins(make_lake: Callable[..., Lake]) -> None:
    lake = make_lake()
    lake.append(TABLE, frame(lake, ["old"]))
    slow, fast = (as_files(lake, frame(lake, [name])) for name in ("slow", "fast"))
    late: Any = Meanwhile(slow.files, lambda: add_files(lake, TABLE, fast, replace=True, mark={}))
    with pytest.raises(ConflictError):
        add_files(lake, TABLE, NewFiles(late, slow.partition), replace=True, mark={})
    assert users_of(lake) == ["fast"]
