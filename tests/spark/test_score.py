"""Lists that Spark writes: those of a naive ranker, and proof before they are published."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlparse

import pyarrow.parquet as pq
import pytest
import torch
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.bundle import BundleInfo, save_bundle
from recsys.config import load_settings
from recsys.errors import ConfigError, PublishError, RecsysError, TrackingError
from recsys.lake.popularity import hash_items
from recsys.lake.tables import Lake
from recsys.score.checks import check_lists
from recsys.score.job import score_users
from recsys.score.users import add_histories, joined_in, known_users
from tests.ranked_users import (
    COMPLETE,
    FAN,
    HISTORIES,
    ITEMS,
    KNOWN,
    NEWCOMER,
    SILENT,
    USERS,
    N,
    naive,
    random_model,
)
from tests.spark.scored_lists import (
    NIGHT,
    SEEN,
    Row,
    Scored,
    add_lists,
    change,
    sequence_row,
    with_first,
)

pytestmark = pytest.mark.spark


def reasons(scored: Scored, user: int) -> list[str]:
    return [entry["reason"] for entry in scored.lists[f"u{user}"]]


def test_spark_writes_the_lists_of_the_naive_ranker_for_every_user(scored: Scored) -> None:
    model = random_model()
    assert sorted(scored.lists) == sorted(f"u{n}" for n in range(1, USERS + 1))
    for user, (history, seen) in HISTORIES.items():
        expected = naive(model, history, seen, N)
        entries = scored.lists[f"u{user}"]
        assert [entry["item_id"] for entry in entries] == [f"i{item}" for item, _ in expected]
        assert [entry["rank"] for entry in entries] == list(range(1, len(expected) + 1))
        wanted = ["model" if from_model else "popular" for _, from_model in expected]
        assert reasons(scored, user) == wanted
        assert not {f"i{item}" for item in seen} & {entry["item_id"] for entry in entries}


def test_workers_write_the_rows_that_spark_writes(scored: Scored) -> None:
    by_spark = scored.lake.settings.score.model_copy(update={"writer": "spark"})
    settings = scored.lake.settings.model_copy(update={"score": by_spark})
    again = Lake(scored.lake.spark, settings)
    version = score_users(again, scored.bundle, "7", scored.versions, NIGHT).commit.version
    old, new = (again.read(schemas.GOLD_TOP_N, number) for number in (scored.top_n, version))
    assert old.schema == new.schema
    assert sorted(old.toJSON().collect()) == sorted(new.toJSON().collect())
    names = [[Path(name).name for name in rows.inputFiles()] for rows in (old, new)]
    assert all(re.fullmatch(r"part-[0-9a-f]{32}\.zstd\.parquet", name) for name in names[0])
    assert all(name.endswith(".c000.zstd.parquet") for name in names[1])
    assert all(names)
    # Lists with many places an item have numbers for item ids.
    for path in old.inputFiles():
        row_group = pq.ParquetFile(path.removeprefix("file://")).metadata.row_group(0)
        columns = (row_group.column(at) for at in range(row_group.num_columns))
        (ids,) = (column for column in columns if column.path_in_schema.endswith(".item_id"))
        many = row_group.num_rows * N >= 4 * (ITEMS + 1)
        assert ("RLE_DICTIONARY" in ids.encodings) == many


@pytest.mark.parametrize("tasks", [1, 3, 7])
def test_histories_are_moved_once_into_as_many_tasks_as_asked_for(
    scored: Scored, tasks: int
) -> None:
    """Users of a task follow from their index, whatever Spark's own number of partitions."""
    lake, spark = scored.lake, scored.lake.spark
    own = spark.conf.get("spark.sql.shuffle.partitions")
    assert own != str(tasks)

    def place(rows: DataFrame) -> DataFrame:
        return rows.repartition(tasks, schemas.USER_IDX)

    spark.conf.set("spark.sql.autoBroadcastJoinThreshold", -1)  # as of many users
    try:
        with joined_in(spark, tasks):
            users = known_users(lake, scored.versions, NIGHT)
            found = add_histories(lake, users, scored.versions, place=place)
            plan = found._jdf.queryExecution().executedPlan().toString()
            moved = re.findall(r"Exchange (?:hashpartitioning\(user_idx|SinglePartition)", plan)
            rows = found.select(schemas.USER_IDX, F.spark_partition_id()).collect()
    finally:
        spark.conf.unset("spark.sql.autoBroadcastJoinThreshold")
    assert len(moved) == 2  # of users and of histories
    assert spark.conf.get("spark.sql.shuffle.partitions") == own
    wanted = users.select(
        schemas.USER_IDX, F.pmod(F.hash(schemas.USER_IDX), F.lit(tasks))
    ).collect()
    assert sorted(rows) == sorted(wanted)


def test_silent_users_and_users_of_new_items_get_the_popular_fallback(scored: Scored) -> None:
    best = [f"i{item}" for item in (3, 4, 25, 24, 23, 22)]
    for user in (SILENT, 29, 30):
        assert [entry["item_id"] for entry in scored.lists[f"u{user}"]] == best
        assert reasons(scored, user) == ["popular"] * N
    assert reasons(scored, NEWCOMER) == ["popular"] * N


def test_lists_are_short_only_where_nearly_everything_is_seen(scored: Scored) -> None:
    assert [entry["item_id"] for entry in scored.lists[f"u{FAN}"]] == ["i7", "i22"]
    assert reasons(scored, FAN) == ["model", "popular"]
    assert scored.lists[f"u{COMPLETE}"] == []
    short = [user for user, entries in scored.lists.items() if len(entries) < N]
    assert sorted(short) == [f"u{FAN}", f"u{COMPLETE}"]


def test_an_application_scores_again_and_keeps_what_it_sends(scored: Scored) -> None:
    """Other contents, as of another catalogue; executors that join later get all files."""
    lake, spark = scored.lake, scored.lake.spark
    other = scored.bundle.parent / "other"
    model = random_model()
    with torch.no_grad():
        model.item_embedding.weight.neg_()
    save_bundle(other, model, BundleInfo(str(NIGHT), "f", KNOWN, 4))
    again = NIGHT + timedelta(days=300)
    commit = score_users(lake, other, "8", scored.versions, again).commit
    rows = lake.read(schemas.GOLD_TOP_N, commit.version).where(f"run_date = '{again}'").collect()
    lists = {row["user_id"]: [entry["item_id"] for entry in row["recommendations"]] for row in rows}
    first = {u: [entry["item_id"] for entry in entries] for u, entries in scored.lists.items()}
    assert lists["u1"] != first["u1"]
    assert lists[f"u{SILENT}"] == first[f"u{SILENT}"]
    assert spark.range(9).rdd.count() == 9
    sent = spark.sparkContext.listFiles
    assert sent
    assert all(Path(urlparse(file).path).exists() for file in sent)


def test_a_damaged_model_and_one_of_another_catalogue_are_refused(scored: Scored) -> None:
    lake, versions = scored.lake, scored.versions
    before = lake.version(schemas.GOLD_TOP_N)
    there = hash_items(lake, versions.items, KNOWN)
    info = BundleInfo(str(NIGHT), "f", KNOWN, 4, catalogue=there)
    mine, other = (scored.bundle.parent / name for name in ("mine", "foreign"))
    save_bundle(mine, random_model(), info)
    assert score_users(lake, mine, "8", versions, NIGHT + timedelta(days=200)).commit.rows == USERS
    # Of another lake, where two items have come in another order.
    items = [(f"i{3 - n if n < 3 else n}", n, NIGHT, None, None) for n in range(1, KNOWN + 1)]
    table = lake.spark.createDataFrame(items, schemas.SILVER_ITEMS.ddl)
    swapped = lake.replace(schemas.SILVER_ITEMS, table).version
    save_bundle(other, random_model(), replace(info, catalogue=hash_items(lake, swapped, KNOWN)))
    with pytest.raises(TrackingError, match="another catalogue: its 20 items are not") as caught:
        score_users(lake, other, "8", versions, NIGHT)
    assert "tracking.model_name" in caught.value.do

    weights = mine / "weights.pt"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(RecsysError, match=r"weights\.pt is damaged"):
        score_users(lake, mine, "8", versions, NIGHT)
    assert lake.version(schemas.GOLD_TOP_N) == before + 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_executors_without_a_gpu_end_the_job_with_a_clear_error(scored: Scored) -> None:
    root = scored.lake.settings.lake.root
    settings = load_settings(None, [f"lake.root={root}", "score.device=cuda"])
    lake, before = Lake(scored.lake.spark, settings), scored.lake.version(schemas.GOLD_TOP_N)
    with pytest.raises(ConfigError, match=r"score\.device=cuda, .* finds no GPU on this executor"):
        score_users(lake, scored.bundle, "8", scored.versions, NIGHT + timedelta(days=300))
    assert lake.version(schemas.GOLD_TOP_N) == before


def test_lists_longer_than_the_catalogue_and_a_history_of_100000_events(scored: Scored) -> None:
    settings = load_settings(None, [f"lake.root={scored.lake.settings.lake.root}", "score.n=1000"])
    lake, day = Lake(scored.lake.spark, settings), NIGHT + timedelta(days=250)
    rows = [sequence_row(user, *history) for user, history in HISTORIES.items()]
    rows[0] = sequence_row(1, [1 + at % ITEMS for at in range(100_000)], HISTORIES[1][1])
    table = lake.spark.createDataFrame(rows, schemas.GOLD_SEQUENCES.ddl)
    long = lake.replace(schemas.GOLD_SEQUENCES, table).version
    versions = replace(scored.versions, sequences=long)
    commit = score_users(lake, scored.bundle, "8", versions, day).commit
    assert check_lists(lake, commit.version, versions, day) == USERS
    found = lake.read(schemas.GOLD_TOP_N, commit.version).where(f"run_date = '{day}'").collect()
    lengths = {row["user_id"]: len(row["recommendations"]) for row in found}
    shown = ITEMS - 1  # item 9 was never seen by anybody
    assert lengths["u1"] == shown - len({*HISTORIES[1][1]} - {9})
    assert lengths[f"u{SILENT}"] == shown


def test_good_lists_pass_the_checks(scored: Scored) -> None:
    assert check_lists(scored.lake, scored.top_n, scored.versions, NIGHT) == USERS


DEFECTS: dict[str, tuple[str, Callable[[list[Row]], list[Row]]]] = {
    "missing user": ("has no list", lambda rows: [row for row in rows if row[0] != "u30"]),
    "unknown user": ("is not a known user", lambda rows: [*rows, ("stranger", rows[0][1])]),
    "two lists": ("has more than one list", lambda rows: [*rows, rows[0]]),
    "short list": ("has too short a list", lambda rows: change(rows, "u1", lambda e: e[:-1])),
    "no list at all": ("has too short a list", lambda rows: change(rows, "u1", lambda e: None)),
    "wrong rank": ("ranks that are not 1..n", lambda rows: change(rows, "u1", with_first(rank=2))),
    "duplicate item": (
        "has an item twice",
        lambda rows: change(rows, "u1", lambda e: [{**e[0], "item_id": e[1]["item_id"]}, *e[1:]]),
    ),
    "NaN score": (
        "score that is no number",
        lambda rows: change(rows, "u1", with_first(score=float("nan"))),
    ),
    "infinite score": (
        "score that is no number",
        lambda rows: change(rows, "u1", with_first(score=float("-inf"))),
    ),
    "seen item": (
        "seen or nobody knows",
        lambda rows: change(rows, "u1", with_first(item_id=SEEN)),
    ),
    "unknown item": (
        "seen or nobody knows",
        lambda rows: change(rows, "u1", with_first(item_id="i99")),
    ),
}
DATES = {name: NIGHT + timedelta(days=at) for at, name in enumerate(DEFECTS, 1)}


@pytest.fixture(scope="module")
def planted(scored: Scored) -> int:
    """One commit with a night of lists for each defect; the table's version."""
    good: list[Row] = sorted(scored.lists.items())
    return add_lists(
        scored.lake, {DATES[name]: plant(good) for name, (_, plant) in DEFECTS.items()}
    )


@pytest.mark.parametrize("name", list(DEFECTS))
def test_each_planted_defect_is_found(name: str, scored: Scored, planted: int) -> None:
    with pytest.raises(PublishError, match=DEFECTS[name][0]) as caught:
        check_lists(scored.lake, planted, scored.versions, DATES[name])
    assert caught.value.what.startswith("1 lists are wrong: a user ")
    assert caught.value.where == f"{scored.lake.path(schemas.GOLD_TOP_N)} version {planted}"
    assert "the lists published before stay live" in caught.value.do
