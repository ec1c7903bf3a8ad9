"""gold/training_examples: what supervised models learn, written by train for the task at hand.

A pair of a user and an item is a window of one event. Of the pairs a share, chosen by a hash of
both ids, validates: a model with a row a user can't be asked about users it never saw. A user's
oldest pair trains in any case. An item's only pair may validate: to see that costs another shuffle
of all pairs, and it is judged as the new items of tomorrow are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys import schemas
from recsys.config import Gold
from recsys.errors import LakeError
from recsys.lake.example_files import write_files
from recsys.lake.labelled_windows import write_rated_windows
from recsys.lake.sequences import holdout_cutoff
from recsys.lake.tables import Commit, Lake
from recsys.schemas import (
    BUCKET,
    CONTEXT,
    EVENT_TIMES,
    EVENT_TYPES,
    ITEM_IDX,
    ITEMS,
    LABELS,
    SPLIT,
    USER_IDX,
    WINDOW,
)

_CODE, _LABEL, _SECONDS = "_code", "_label", "_seconds"
_VALIDATION_DAYS = 30
_SPLITS = 2

Versions = Mapping[str, int]
"""Table name to the Delta version to read."""


def write_examples(
    lake: Lake, kind: str, task: str, versions: Versions, run_date: date
) -> Commit | None:
    """Write the examples of a task; None where it learns from gold/training_sequences as it is.

    Args:
        kind, task: of the model, and what it learns.
        versions: of the gold tables of this night.
        run_date: nothing of its hold-out is in the examples.

    Raises:
        LakeError: there is nothing to learn the task from.
    """
    write = _WRITERS.get((kind, task))
    return None if write is None else write(lake, versions, run_date)


def write_ratings(lake: Lake, versions: Versions, run_date: date) -> Commit:
    """Each user's latest rating of an item before the hold-out; its label is the rating.

    Raises:
        LakeError: nobody has rated anything.
    """
    ratings = lake.read(schemas.GOLD_RATINGS, versions[schemas.GOLD_RATINGS.name])
    pairs = find_ratings(ratings, holdout_cutoff(lake.settings.gold, run_date))
    if pairs.isEmpty():
        raise LakeError(
            "no rating before the hold-out: a model of ratings has nothing to learn",
            where=lake.path(schemas.GOLD_RATINGS),
            do="choose a model that learns from what users did (model.kind transformer or "
            "collaborative_network), name the column of ratings in the log's format, or ingest "
            "more days",
        )
    return _write_pairs(lake, pairs)


def write_new_ratings(
    lake: Lake, versions: Versions, run_date: date, since: datetime
) -> Commit | None:
    """The ratings from ``since`` to the hold-out, to train on, and what validates an update.

    So few days may hold no pair that validates, so those of a month before do too: an update has
    to fit these as well. Which pairs validate is the same every night; they never train.

    Returns:
        None where there is nothing to train on, or nothing that validates.
    """
    cutoff = holdout_cutoff(lake.settings.gold, run_date)
    ratings = lake.read(schemas.GOLD_RATINGS, versions[schemas.GOLD_RATINGS.name])
    first = (since - timedelta(days=_VALIDATION_DAYS)).date()
    recent = ratings.where(F.col(schemas.EVENT_DATE) >= F.lit(first))
    examples = _split(find_ratings(recent, cutoff), lake.settings.gold)
    new = F.element_at(EVENT_TIMES, 1) >= F.lit(int(since.timestamp()))
    wanted = examples.where(new | (F.col(SPLIT) == schemas.VALIDATION_SPLIT))
    if wanted.select(SPLIT).distinct().count() < _SPLITS:
        return None
    return write_files(lake, wanted, _rows_a_file(lake.settings.gold))


def write_interactions(lake: Lake, versions: Versions, run_date: date) -> Commit:
    """Each different item of a user in gold/training_sequences; the label is 1.

    These windows end before the hold-out. A user with a single event is in none, as nothing
    could be predicted of it, and is unknown to models of pairs too.

    Raises:
        LakeError: there is no window.
    """
    table = schemas.GOLD_TRAINING_SEQUENCES
    pairs = find_interactions(lake.read(table, versions[table.name]))
    if pairs.isEmpty():
        raise LakeError(
            "no user with two events before the hold-out: there is no pair to learn from",
            where=lake.path(table),
            do="ingest more days, or lower gold.holdout_days",
        )
    return _write_pairs(lake, pairs)


_WRITERS: dict[tuple[str, str], Callable[[Lake, Versions, date], Commit]] = {
    ("matrix_factorization", "rating"): write_ratings,
    ("collaborative_network", "interaction"): write_interactions,
    ("transformer", "rating"): write_rated_windows,
}


def find_ratings(ratings: DataFrame, cutoff: datetime) -> DataFrame:
    """One row a user and item: user_idx, item_idx, _seconds, _code, _label."""
    before = F.col(schemas.EVENT_TS) < F.lit(cutoff)
    newest = F.max(F.struct(schemas.EVENT_TS, schemas.RATING)).alias("newest")
    return (
        ratings.where(before & (F.col(schemas.EVENT_DATE) <= F.lit(cutoff.date())))
        .groupBy(USER_IDX, ITEM_IDX)
        .agg(newest)
        .select(
            USER_IDX,
            ITEM_IDX,
            F.unix_seconds(f"newest.{schemas.EVENT_TS}").alias(_SECONDS),
            F.lit(schemas.EVENT_TYPE_CODES["rating"]).alias(_CODE),
            F.col(f"newest.{schemas.RATING}").alias(_LABEL),
        )
    )


def find_interactions(windows: DataFrame) -> DataFrame:
    """One row a user and item, as of their last event: columns as ``find_ratings``."""
    event = F.explode(F.arrays_zip(ITEMS, EVENT_TIMES, EVENT_TYPES)).alias("e")
    last = F.max(F.struct(f"e.{EVENT_TIMES}", f"e.{EVENT_TYPES}")).alias("last")
    return (
        windows.select(USER_IDX, event)
        .where(F.col(f"e.{ITEMS}") != schemas.PADDING_IDX)
        .groupBy(USER_IDX, F.col(f"e.{ITEMS}").alias(ITEM_IDX))
        .agg(last)
        .select(
            USER_IDX,
            ITEM_IDX,
            F.col(f"last.{EVENT_TIMES}").alias(_SECONDS),
            F.col(f"last.{EVENT_TYPES}").alias(_CODE),
            F.lit(1.0).alias(_LABEL),
        )
    )


def _write_pairs(lake: Lake, pairs: DataFrame) -> Commit:
    gold = lake.settings.gold
    return write_files(lake, _split(pairs, gold), _rows_a_file(gold))


def _rows_a_file(gold: Gold) -> int:
    """As many events as one of windows has: a pair is one."""
    return gold.rows_per_row_group * gold.sequence_length


def _split(pairs: DataFrame, gold: Gold) -> DataFrame:
    """Columns of gold/training_examples."""
    oldest_first = Window.partitionBy(USER_IDX).orderBy(_SECONDS, ITEM_IDX)
    numbered = pairs.withColumn(WINDOW, F.row_number().over(oldest_first) - 1)
    share = F.pmod(F.xxhash64(USER_IDX, ITEM_IDX, F.lit("validation")), F.lit(1_000_000))
    validates = (share / 1_000_000 < gold.validation_share) & (F.col(WINDOW) > 0)
    return numbered.select(
        USER_IDX,
        WINDOW,
        F.array(ITEM_IDX).alias(ITEMS),
        F.array(_CODE).alias(EVENT_TYPES),
        F.array(_SECONDS).alias(EVENT_TIMES),
        F.array(_LABEL).alias(LABELS),
        F.lit(0).alias(CONTEXT),
        F.when(validates, schemas.VALIDATION_SPLIT).otherwise(schemas.TRAIN_SPLIT).alias(SPLIT),
        F.lit(1).alias(BUCKET),
    )
