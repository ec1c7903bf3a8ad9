"""The scoring job: a list for every user, written to gold/top_n, then checked."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark import SparkFiles
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import PublishError
from recsys.lake.popularity import read_item_ids, read_popularity
from recsys.lake.tables import Commit, Lake
from recsys.score.pack import load_pack, write_pack
from recsys.score.ranker import MODEL_REASON, POPULAR_REASON, Lists, rank_histories


@dataclass(frozen=True)
class Versions:
    """Table versions that a night scores with."""

    sequences: int
    users: int
    items: int
    item_stats: int


def score_users(
    lake: Lake, bundle: Path, model_version: str, versions: Versions, run_date: date, tag: str
) -> Commit:
    """Score every user and replace the night's partition of gold/top_n in one commit.

    Args:
        tag: names the file sent to executors; different for different models or catalogues.
    """
    settings = lake.settings
    item_ids = read_item_ids(lake, versions.items)
    popularity = read_popularity(
        lake, versions.item_stats, len(item_ids) - 1, run_date, settings.evaluate.popularity_days
    )
    name = f"scoring-{tag}.tar"
    with tempfile.TemporaryDirectory(prefix="recsys-scoring-") as folder:
        write_pack(Path(folder) / name, bundle, item_ids, popularity)
        lake.spark.sparkContext.addFile(str(Path(folder) / name))
        lists = (
            _all_users(lake, versions)
            # A fixed number of tasks and order within them: same batches, same scores to the bit.
            .repartition(settings.score.partitions, schemas.USER_IDX)
            .sortWithinPartitions(schemas.BUCKET, schemas.USER_IDX)
            .select(schemas.USER_ID, schemas.ITEMS, schemas.SEEN_ITEMS)
            .mapInArrow(_Scorer(name, settings.score.n), _LIST_DDL)
            .withColumn(schemas.RUN_DATE, F.lit(run_date))
            .withColumn(schemas.MODEL_VERSION, F.lit(model_version))
        )
        return lake.replace(schemas.GOLD_TOP_N, lists, f"{schemas.RUN_DATE} = '{run_date}'")


def _all_users(lake: Lake, versions: Versions) -> DataFrame:
    """Every known user, those without a sequence too (they get the fallback)."""
    users = lake.read(schemas.SILVER_USERS, versions.users)
    sequences = lake.read(schemas.GOLD_SEQUENCES, versions.sequences).drop(schemas.USER_ID)
    none = F.array().cast("array<int>")
    return users.join(sequences, schemas.USER_IDX, "left").select(
        schemas.USER_ID,
        schemas.USER_IDX,
        F.coalesce(F.col(schemas.BUCKET), F.lit(0)).alias(schemas.BUCKET),
        F.coalesce(F.col(schemas.ITEMS), none).alias(schemas.ITEMS),
        F.coalesce(F.col(schemas.SEEN_ITEMS), none).alias(schemas.SEEN_ITEMS),
    )


_TYPES = {c.name: c.type for c in schemas.GOLD_TOP_N.columns}
_LIST_DDL = (
    f"{schemas.USER_ID} {_TYPES[schemas.USER_ID]}, "
    f"{schemas.RECOMMENDATIONS} {_TYPES[schemas.RECOMMENDATIONS]}"
)


@dataclass(frozen=True)
class _Scorer:
    """What runs inside a Spark worker: batches of histories in, batches of lists out."""

    pack: str
    n: int

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        pack = load_pack(SparkFiles.get(self.pack))
        for batch in batches:
            histories = _rows(batch.column(schemas.ITEMS))
            seen = _rows(batch.column(schemas.SEEN_ITEMS))
            lists = rank_histories(pack.model, histories, seen, pack.popularity, self.n)
            column = to_arrow(lists, pack.item_ids)
            yield pa.RecordBatch.from_arrays(
                [batch.column(schemas.USER_ID), column], [schemas.USER_ID, schemas.RECOMMENDATIONS]
            )


def _rows(column: pa.Array) -> list[np.ndarray]:
    values = column.flatten().to_numpy(zero_copy_only=False)
    lengths = column.value_lengths().to_numpy(zero_copy_only=False)
    return np.split(values, np.cumsum(lengths)[:-1])


def to_arrow(lists: Lists, item_ids: pa.Array) -> pa.ListArray:
    """Lists as array<struct<rank, item_id, score, reason>>, without the places that are empty."""
    real = lists.items > 0
    lengths = real.sum(axis=1)
    ranks = np.broadcast_to(np.arange(1, lists.items.shape[1] + 1, dtype=np.int32), real.shape)
    reasons = np.where(lists.from_model, MODEL_REASON, POPULAR_REASON)
    entries = pa.StructArray.from_arrays(
        [
            pa.array(ranks[real]),
            item_ids.take(pa.array(lists.items[real])),
            pa.array(lists.scores[real], pa.float32()),
            pa.array(reasons[real], pa.string()),
        ],
        [schemas.RANK, schemas.ITEM_ID, schemas.SCORE, schemas.REASON],
    )
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), entries)


def check_lists(lake: Lake, top_n_version: int, versions: Versions, run_date: date) -> int:
    """Prove that the lists may be shown; the number of lists.

    Every user has one list; ranks are 1..n; no item twice, none seen, none unknown; scores are
    numbers. A list may be shorter than n only where the user has seen nearly everything.

    Raises:
        PublishError: which rule is broken, by how many lists, with an example.
    """
    n = lake.settings.score.n
    lists = lake.read(schemas.GOLD_TOP_N, top_n_version).where(
        F.col(schemas.RUN_DATE) == F.lit(run_date)
    )
    item_map = lake.read(schemas.SILVER_ITEMS, versions.items)
    catalogue = item_map.count()
    popular = (
        lake.read(schemas.GOLD_ITEM_STATS, versions.item_stats)
        .select(schemas.ITEM_IDX)
        .distinct()
        .count()
    )
    users = _all_users(lake, versions).withColumnRenamed(schemas.USER_ID, "known_user")
    rows = lists.join(users, lists[schemas.USER_ID] == users["known_user"], "full_outer")
    entries = F.col(schemas.RECOMMENDATIONS)
    ids = F.transform(entries, lambda e: e[schemas.ITEM_ID])
    possible = F.least(F.lit(n), F.lit(min(catalogue, popular)) - F.size(schemas.SEEN_ITEMS))
    rules = {
        "has no list": F.col(schemas.USER_ID).isNull(),
        "is not a known user": F.col("known_user").isNull(),
        "has too short a list": F.size(entries) < possible,
        "has ranks that are not 1..n": F.transform(entries, lambda e: e[schemas.RANK])
        != F.when(F.size(entries) > 0, F.sequence(F.lit(1), F.size(entries))).otherwise(
            F.array().cast("array<int>")
        ),
        "has an item twice": F.size(F.array_distinct(ids)) < F.size(ids),
        "has a score that is no number": F.exists(
            entries, lambda e: e[schemas.SCORE].isNull() | F.isnan(e[schemas.SCORE])
        ),
    }
    checks = [F.count_if(F.coalesce(rule, F.lit(False))) for rule in rules.values()]
    someone = F.coalesce(F.col(schemas.USER_ID), F.col("known_user"))
    examples = [F.min(F.when(rule, someone)) for rule in rules.values()]
    found = rows.agg(F.count(F.lit(1)), *checks, *examples).first()
    assert found is not None, "an aggregate has a row"
    for place, rule in enumerate(rules):
        if broken := found[1 + place]:
            _refuse(lake, rule, broken, found[1 + len(rules) + place], top_n_version)
    _check_seen(lake, lists, item_map, users, top_n_version)
    return int(found[0])


def _check_seen(
    lake: Lake, lists: DataFrame, items: DataFrame, users: DataFrame, version: int
) -> None:
    """No unknown item, and none that the user has seen."""
    shown = lists.select(
        schemas.USER_ID, F.explode(f"{schemas.RECOMMENDATIONS}.{schemas.ITEM_ID}").alias("shown")
    )
    ids = items.select(F.col(schemas.ITEM_ID).alias("shown"), schemas.ITEM_IDX)
    per_user = (
        shown.join(ids, "shown", "left")
        .groupBy(schemas.USER_ID)
        .agg(F.collect_list(F.coalesce(schemas.ITEM_IDX, F.lit(0))).alias("shown"))
    )
    seen = users.select("known_user", schemas.SEEN_ITEMS)
    bad = per_user.join(seen, F.col(schemas.USER_ID) == F.col("known_user")).where(
        F.array_contains("shown", 0) | F.arrays_overlap("shown", schemas.SEEN_ITEMS)
    )
    found = bad.agg(F.count(F.lit(1)), F.min(schemas.USER_ID)).first()
    assert found is not None, "an aggregate has a row"
    if found[0]:
        _refuse(lake, "has an item it has seen or nobody knows", found[0], found[1], version)


def _refuse(lake: Lake, rule: str, broken: int, example: str, version: int) -> None:
    raise PublishError(
        f"{broken} lists are wrong: a user {rule} (e.g. {example})",
        where=f"{lake.path(schemas.GOLD_TOP_N)} version {version}",
        do="the lists published before stay live; run score_users again with --force",
    )
