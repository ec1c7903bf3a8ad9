"""Windows of gold/training_sequences with the ratings of their events, for sequence models."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import LakeError
from recsys.lake.example_files import write_files
from recsys.lake.sequences import holdout_cutoff
from recsys.lake.tables import Commit, Lake
from recsys.schemas import EVENT_TIMES, ITEMS, LABELS, RATING, USER_IDX

_RATED = "_rated"


def write_rated_windows(lake: Lake, versions: Mapping[str, int], run_date: date) -> Commit:
    """Replace gold/training_examples by the windows of the night, with ratings as labels.

    Args:
        versions: of gold/training_sequences and gold/ratings of this night.

    Raises:
        LakeError: no event of a window was rated.
    """
    windows, ratings = (
        lake.read(table, versions[table.name])
        for table in (schemas.GOLD_TRAINING_SEQUENCES, schemas.GOLD_RATINGS)
    )
    rated = label_windows(windows, ratings, holdout_cutoff(lake.settings.gold, run_date))
    if rated.where(F.exists(LABELS, lambda label: ~F.isnan(label))).isEmpty():
        raise LakeError(
            "no rating before the hold-out is the last event of its item in a row: there is "
            "nothing to learn ratings from",
            where=lake.path(schemas.GOLD_RATINGS),
            do="choose another train.task, name the column of ratings in the log's format, or "
            "ingest more days",
        )
    return write_files(lake, rated, lake.settings.gold.rows_per_row_group)


def label_windows(windows: DataFrame, ratings: DataFrame, cutoff: datetime) -> DataFrame:
    """All windows with columns of gold/training_examples; events without a rating have label NaN.

    Windows without a rating stay: they are few, and a model's length is that of the longest. A
    rating labels the event of its user, item and second. Of events of one item in a row a window
    holds the last, so a rating that a further view followed labels nothing.

    Args:
        windows: gold/training_sequences.
        ratings: gold/ratings.
        cutoff: ratings from here on (UTC) are left out.
    """
    event = F.struct(
        F.col(schemas.ITEM_IDX).alias("item"),
        F.unix_seconds(schemas.EVENT_TS).alias("seconds"),
    )
    before = F.col(schemas.EVENT_TS) < F.lit(cutoff)
    known = (
        ratings.where(before & (F.col(schemas.EVENT_DATE) <= F.lit(cutoff.date())))
        .groupBy(USER_IDX)
        .agg(F.map_from_entries(F.collect_list(F.struct(event, RATING))).alias(_RATED))
    )
    nan = F.lit(float("nan")).cast("float")
    labels = F.zip_with(
        ITEMS,
        EVENT_TIMES,
        lambda item, seconds: F.coalesce(
            F.try_element_at(_RATED, F.struct(item.alias("item"), seconds.alias("seconds"))), nan
        ),
    )
    return (
        windows.join(known, USER_IDX, "left")
        .withColumn(LABELS, labels)
        .select(*schemas.GOLD_TRAINING_EXAMPLES.names)
    )
