"""Compaction: the same rows in fewer files, whoever writes meanwhile."""

from __future__ import annotations

from datetime import timedelta
from threading import Thread

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from recsys import schemas
from recsys.config import load_settings
from recsys.errors import ConflictError, LakeError
from recsys.lake import compaction
from recsys.lake.compaction import compact, plan_compaction
from recsys.lake.pinning import pin_training_table
from recsys.lake.table_files import count_row_groups, live_files
from recsys.lake.tables import Lake
from recsys.schemas import Table
from tests.spark.kept_tables import (
    NIGHT,
    NOW_IS_ALL,
    content,
    note_night,
    rows,
)

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Its path has what a pattern or a URL would take amiss."""
    root = tmp_path_factory.mktemp("house") / "a b%20[x]" / "lake"
    lake = Lake(spark, load_settings(None, [f'lake.root="{root}"', *NOW_IS_ALL]))
    note_night(lake, NIGHT)
    return lake


def test_compaction_leaves_the_rows_and_makes_one_file_of_many(lake: Lake) -> None:
    table, other = schemas.SILVER_EVENTS, NIGHT - timedelta(days=1)
    lake.append(table, rows(lake.spark, table, 0, 50, event_date=f"date'{other}'"))
    for number in range(3):
        lake.append(table, rows(lake.spark, table, number * 10, 10))
    before, files = content(lake.read(table)), live_files(lake, table)
    (work,) = plan_compaction(lake, table, files)
    assert [dict(partition) for partition in work.partitions] == [{"event_date": str(NIGHT)}]
    done = compact(lake, table, [work])
    assert (done.removed, done.added) == (3, 1)
    after = live_files(lake, table)
    assert content(lake.read(table)) == before
    assert len(after) == 2
    assert {f.name for f in files} & {f.name for f in after} == {
        f.name for f in files if dict(f.partition) == {"event_date": str(other)}
    }
    assert plan_compaction(lake, table, after) == []


def test_training_files_are_compacted_to_whole_row_groups(lake: Lake) -> None:
    table = schemas.GOLD_TRAINING_SEQUENCES
    gold = lake.settings.gold.model_copy(update={"rows_per_row_group": 20, "min_row_groups": 2})
    own = Lake(lake.spark, lake.settings.model_copy(update={"gold": gold}))
    for split, bucket in (("train", 9), ("validation", 3)):
        fixed = {"split": f"'{split}'", "bucket": str(bucket), "open": "false"}
        for number in range(5 if split == "train" else 2):
            own.append(table, rows(own.spark, table, number * 8, 8, **fixed))
    for number in range(3):  # the night writes these anew
        opened = {"split": "'train'", "bucket": "9", "open": "true"}
        own.append(table, rows(own.spark, table, 100 + number, 1, **opened))
    before = content(own.read(table))
    compact(own, table, plan_compaction(own, table, live_files(own, table)))
    assert content(own.read(table)) == before
    pinned = pin_training_table(own)
    counts = {split: [f.rows for f in pinned.files if f.split == split] for split in
              ("train", "validation")}  # fmt: skip
    assert sorted(counts["train"]) == [1, 1, 1, 20, 20]
    assert counts["validation"] == [8, 8]  # too few to be worth it
    names = [file.name for file in live_files(own, table)]
    assert count_row_groups(own, table, names) == [1] * 7
    assert plan_compaction(own, table, live_files(own, table)) == []


def find_layouts(lake: Lake, table: Table, column: str) -> set[tuple[str, bool]]:
    """Of a column in all files: the codec, and whether values are numbered (a dictionary)."""
    found = set()
    for url in lake.read(table).inputFiles():
        group = pq.ParquetFile(url.removeprefix("file:")).metadata.row_group(0)
        for part in map(group.column, range(group.num_columns)):
            if part.path_in_schema.endswith(column):
                found.add((part.compression, part.has_dictionary_page))
    return found


def test_tables_without_a_codec_of_their_own_have_that_of_the_session(lake: Lake) -> None:
    codec, table = "spark.sql.parquet.compression.codec", schemas.GOLD_ITEM_STATS
    before = lake.spark.conf.get(codec)
    lake.spark.conf.set(codec, "gzip")
    try:
        lake.replace(table, rows(lake.spark, table, 0, 100))
    finally:
        lake.spark.conf.set(codec, before)
    assert {name for name, _ in find_layouts(lake, table, "item_idx")} == {"GZIP"}


def test_lists_are_laid_out_so_that_one_user_lies_in_one_file(lake: Lake) -> None:
    section = lake.settings.lake.model_copy(update={"file_mb": 1})
    own = Lake(lake.spark, lake.settings.model_copy(update={"lake": section}))
    table, night = schemas.GOLD_TOP_N, NIGHT - timedelta(days=90)
    fixed = {"user_id": "md5(string(id))", "run_date": f"date'{night}'"}
    for number in range(6):
        own.append(table, rows(own.spark, table, 20_000 * number, 20_000, **fixed))
    one = f"run_date = '{night}' and user_id = md5('4711')"
    assert len(own.read(table).where(one).inputFiles()) == 6
    assert find_layouts(own, table, "element.item_id") == {("ZSTD", False)}
    compact(own, table, plan_compaction(own, table, live_files(own, table)))
    assert len(live_files(own, table)) > 1
    assert find_layouts(own, table, "element.item_id") == {("ZSTD", False)}
    found = own.read(table).where(one)
    assert len(found.inputFiles()) == found.count() == 1
    own.delta(table).delete(f"run_date = '{night}'")


def test_what_each_night_writes_anew_is_not_compacted(lake: Lake) -> None:
    table = schemas.GOLD_HOLDOUT
    lake.replace(table, rows(lake.spark, table, 0, 40).repartition(20, "user_idx"))
    files = live_files(lake, table)
    assert len(files) > lake.settings.lake.compact_from_files
    assert plan_compaction(lake, table, files) == []


def test_compaction_beside_appends_loses_no_row(lake: Lake) -> None:
    table = schemas.GOLD_RATINGS
    lake.append(table, rows(lake.spark, table, 0, 5))

    def append() -> None:
        for number in range(1, 9):
            lake.append(table, rows(lake.spark, table, number * 5, 5))

    thread = Thread(target=append)
    thread.start()
    removed = 0
    while thread.is_alive():
        plan = plan_compaction(lake, table, live_files(lake, table))
        removed += compact(lake, table, plan).removed
    thread.join()
    assert removed > 0
    found = sorted(row.user_idx for row in lake.read(table).collect())
    assert found == list(range(45))


def test_compaction_beside_a_night_that_rewrites_the_table(lake: Lake) -> None:
    table, last = schemas.GOLD_ITEM_STATS, 2

    def rewrite(number: int) -> None:
        rewritten = rows(lake.spark, table, 100 * number, 50).repartition(4, "item_idx")
        try:
            lake.replace(table, rewritten)
        except ConflictError:
            rewrite(number)  # the compaction was faster: a night does its stage again

    rewrite(0)
    thread = Thread(target=lambda: [rewrite(number) for number in range(1, last + 1)])
    thread.start()
    while thread.is_alive():
        compact(lake, table, plan_compaction(lake, table, live_files(lake, table)))
    thread.join()
    found = sorted(row.item_idx for row in lake.read(table).collect())
    assert found == list(range(100 * last, 100 * last + 50))


def test_a_compaction_that_always_comes_second_gives_up_and_says_so(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, said = schemas.OPS_LAKE, []
    for number in range(3):
        lake.append(table, rows(lake.spark, table, number, 1))
    plan = plan_compaction(lake, table, live_files(lake, table))

    def lose(*_: object) -> None:
        raise RuntimeError("[DELTA_CONCURRENT_APPEND] files were added")

    def fail(*_: object) -> None:
        raise RuntimeError("No space left on device: java.util.concurrent.ExecutionException")

    monkeypatch.setattr(compaction, "_optimize", lose)
    assert compact(lake, table, plan, said.append).lost_to_others
    assert len(said) == 3
    monkeypatch.setattr(compaction, "_optimize", fail)
    with pytest.raises(LakeError, match="the disk is full"):
        compact(lake, table, plan)
