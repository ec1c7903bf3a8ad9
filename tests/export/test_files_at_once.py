"""Exports into one folder at the same time: readers see whole lists, whoever ends first."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from pyspark.sql import functions as F

from recsys import schemas
from recsys.config import FileTarget
from recsys.errors import ExportError
from recsys.export.contract import export_lists
from recsys.export.files import FileStore
from recsys.export.lists import read_live
from recsys.lake.tables import Lake
from tests.export.consumers import NIGHTS, USERS, expected, make_live, read_files

pytestmark = [pytest.mark.spark, pytest.mark.parametrize("kind", ["parquet", "jsonl"])]

FIRST, SECOND = NIGHTS


def open_twice(lake: Lake, folder: Path) -> list[FileStore]:
    """As two processes would have it, for one target; the folder's name is its kind."""
    target = FileTarget.model_validate({"kind": folder.name, "path": str(folder)})
    return [FileStore(lake.spark, target) for _ in range(2)]


def test_two_that_write_the_same_lists_at_once_both_end_well(
    kind: str, lake: Lake, tmp_path: Path
) -> None:
    make_live(lake, FIRST)
    lists, folder = read_live(lake, False), tmp_path / kind
    stores = open_twice(lake, folder)
    # Both find nothing, so both write.
    assert [store.count(lists.version) for store in stores] == [0, 0]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda store: store.write(lists), stores))
    for store in stores:
        assert store.count(lists.version) == len(USERS)
        store.make_current(lists)
        assert read_files(folder) == expected(FIRST)
    # Both writes go with their version.
    make_live(lake, SECOND)
    assert export_lists(stores[0], read_live(lake, False), keep=1) == "written, 1 old removed"
    assert len(list(folder.glob("version=*"))) == 1
    assert read_files(folder) == expected(SECOND)


def test_one_that_fails_late_leaves_what_the_other_has_put_in_force(
    kind: str, lake: Lake, tmp_path: Path
) -> None:
    make_live(lake, FIRST)
    lists, folder = read_live(lake, False), tmp_path / kind
    first, late = open_twice(lake, folder)
    assert late.count(lists.version) == 0
    assert export_lists(first, lists, keep=1) == "written"
    user = F.col(schemas.USER_ID)
    fails = F.when(user == USERS[-1], F.raise_error("the job is gone")).otherwise(user)
    with pytest.raises(ExportError, match="can't be read or written"):
        late.write(replace(lists, rows=lists.rows.withColumn(schemas.USER_ID, fails)))
    assert read_files(folder) == expected(FIRST)
    assert export_lists(late, lists, keep=1, force=True) == "counted again"
    assert read_files(folder) == expected(FIRST)
