"""Silver to gold: sequences, training windows, hold-out, ratings and item statistics."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.config import Gold
from recsys.errors import LakeError
from recsys.lake import sequences
from recsys.lake.tables import Lake
from recsys.schemas import DataFile, PinnedTable


@dataclass(frozen=True)
class GoldCounts:
    """Rows of the night's gold tables."""

    events: int
    sequences: int
    training_windows: int
    holdout_users: int
    ratings: int
    item_days: int


def holdout_cutoff(gold: Gold, run_date: date) -> datetime:
    """First held-out moment (UTC): training sees only what happened before it."""
    day = run_date + timedelta(days=1 - gold.holdout_days)
    return datetime.combine(day, time(), UTC)


def build_gold(lake: Lake, run_date: date) -> GoldCounts:
    """Rebuild the gold tables as of the end of ``run_date``.

    Raises:
        LakeError: there are no events up to the date.
    """
    gold = lake.settings.gold
    cutoff = holdout_cutoff(gold, run_date)
    events = encode_events(lake, run_date)
    users = lake.read(schemas.SILVER_USERS).select(schemas.USER_ID, schemas.USER_IDX)
    histories = sequences.build_histories(events, users, cutoff)
    histories = histories.persist(StorageLevel.MEMORY_AND_DISK)
    try:
        count, expected = _count(histories, gold, cutoff)
        if not count:
            raise LakeError(
                f"no events up to {run_date}",
                where=lake.path(schemas.SILVER_EVENTS),
                do=f"run build_silver for {run_date} first",
            )
        live, windows, holdout, ratings, stats = lake.in_parallel(
            lambda: _write_sequences(lake, histories),
            lambda: _write_training(lake, histories, expected, cutoff),
            lambda: _write_holdout(lake, histories, cutoff),
            lambda: lake.replace(schemas.GOLD_RATINGS, _build_ratings(events, users)).rows,
            lambda: lake.replace(schemas.GOLD_ITEM_STATS, _build_item_stats(events)).rows,
        )
        return GoldCounts(count, live, windows, holdout, ratings, stats)
    finally:
        histories.unpersist()


def encode_events(lake: Lake, run_date: date) -> DataFrame:
    """Events up to the end of ``run_date`` with item indices and event type codes.

    One version of the table, whoever writes meanwhile. Its columns are read again for each use:
    that costs less than a copy of all events in memory. User ids stay: a user's rows are grouped
    first and the index is looked up once a user, not once an event.
    """
    codes = F.create_map(*[F.lit(x) for pair in schemas.EVENT_TYPE_CODES.items() for x in pair])
    items = lake.read(schemas.SILVER_ITEMS).select(schemas.ITEM_ID, schemas.ITEM_IDX)
    return (
        lake.read(schemas.SILVER_EVENTS, lake.version(schemas.SILVER_EVENTS))
        .where(F.col(schemas.EVENT_DATE) <= F.lit(run_date))
        .where(F.col(schemas.INGEST_DATE) <= F.lit(run_date))
        .join(items, schemas.ITEM_ID)
        .select(
            schemas.USER_ID,
            schemas.ITEM_IDX,
            codes[F.col(schemas.EVENT_TYPE)].alias("code"),
            schemas.RATING,
            schemas.EVENT_TS,
            schemas.EVENT_DATE,
        )
    )


def _count(histories: DataFrame, gold: Gold, cutoff: datetime) -> tuple[int, int]:
    """Events and training windows; the histories lie in memory (or on disk) afterwards."""
    windows = sequences.count_windows(gold, cutoff)
    counted = histories.agg(F.sum(sequences.EVENTS), windows).collect()[0]
    return counted[0] or 0, counted[1] or 0


def _write_sequences(lake: Lake, histories: DataFrame) -> int:
    rows = sequences.build_sequences(histories, lake.settings.gold)
    # Few files a bucket, but no bucket a single task's work: Spark splits the large ones.
    return lake.replace(schemas.GOLD_SEQUENCES, rows.hint("rebalance", schemas.BUCKET)).rows


def _write_training(lake: Lake, histories: DataFrame, count: int, cutoff: datetime) -> int:
    """Write the windows so that each file is one row group of one split and bucket.

    Files are the unit that ranks share out, so there are at least ``min_row_groups`` where the
    rows allow it. Users are mixed by a hash: any file is a sample of all.

    Args:
        count: how many windows there are.
    """
    gold = lake.settings.gold
    each = max(1, min(gold.rows_per_row_group, count // gold.min_row_groups))
    mixed = F.xxhash64(schemas.USER_IDX, schemas.WINDOW)
    parts = [schemas.SPLIT, schemas.BUCKET]
    windows = sequences.build_training_windows(histories, gold, cutoff)
    placed = windows.repartition(
        lake.settings.spark.shuffle_partitions, *parts, F.pmod(mixed, F.lit(8))
    ).sortWithinPartitions(*parts, mixed)
    # One block a file: a row group never ends before maxRecordsPerFile does.
    options = {"maxRecordsPerFile": str(each), "parquet.block.size": str(1 << 30)}
    return lake.replace(schemas.GOLD_TRAINING_SEQUENCES, placed, options=options).rows


def _write_holdout(lake: Lake, histories: DataFrame, cutoff: datetime) -> int:
    rows = sequences.build_holdout(histories, lake.settings.gold, cutoff)
    return lake.replace(schemas.GOLD_HOLDOUT, rows).rows


def pin_training_table(lake: Lake, version: int | None = None) -> PinnedTable:
    """The files of one version of gold/training_sequences, in an order set by their content.

    Raises:
        LakeError: the table is empty or missing.
    """
    table = schemas.GOLD_TRAINING_SEQUENCES
    pinned = lake.version(table) if version is None else version
    if pinned < 0:
        raise LakeError(
            f"table {table.name} is missing", where=lake.path(table), do="run build_gold first"
        )
    files = (
        lake.read(table, pinned)
        .groupBy(F.input_file_name().alias("url"), schemas.SPLIT, schemas.BUCKET)
        .agg(
            F.count(F.lit(1)).alias("rows"),
            F.min(F.struct(schemas.USER_IDX, schemas.WINDOW)).alias("first"),
        )
        .orderBy(schemas.SPLIT, schemas.BUCKET, "first")
        .collect()
    )
    if not files:
        raise LakeError(
            f"table {table.name} has no window to train on",
            where=f"{lake.path(table)} version {pinned}",
            do="a model needs users with at least two events before the hold-out "
            "(gold.holdout_days)",
        )
    found = tuple(DataFile(f["url"], f[schemas.SPLIT], f[schemas.BUCKET], f["rows"]) for f in files)
    return PinnedTable(table.name, pinned, found)


def _build_ratings(events: DataFrame, users: DataFrame) -> DataFrame:
    rated = events.where(F.col(schemas.RATING).isNotNull())
    newest = F.max(F.struct(schemas.EVENT_TS, schemas.RATING)).alias("newest")
    return (
        rated.groupBy(schemas.USER_ID, schemas.ITEM_IDX)
        .agg(newest)
        .join(users, schemas.USER_ID)
        .select(schemas.USER_IDX, schemas.ITEM_IDX, "newest.*")
    )


def _build_item_stats(events: DataFrame) -> DataFrame:
    # A 64-bit hash of the pseudonym halves the bytes to shuffle. Of a million users of one item and
    # day two share a hash, and are counted as one, with a chance of 3 in 100 million.
    user = F.xxhash64(schemas.USER_ID).alias(schemas.USER_ID)
    pairs = events.groupBy(schemas.ITEM_IDX, schemas.EVENT_DATE, user).count()
    daily = pairs.groupBy(schemas.ITEM_IDX, schemas.EVENT_DATE).agg(
        F.sum("count").alias(schemas.EVENTS), F.count(F.lit(1)).alias(schemas.USERS)
    )
    first = daily.groupBy(schemas.ITEM_IDX).agg(F.min(schemas.EVENT_DATE).alias(schemas.FIRST_SEEN))
    return daily.join(first, schemas.ITEM_IDX)
