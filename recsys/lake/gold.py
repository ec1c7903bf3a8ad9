"""Silver to gold: sequences, training windows, hold-out, ratings and item statistics.

A night goes on from the gold of an earlier one (``lake/base.py``) and reads the events that came
since. What it writes is a function of the events alone, so it does not matter which night that
was, nor whether there was one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.lake import daily, sequences, windows
from recsys.lake.base import Base, find_base
from recsys.lake.commits import BASE
from recsys.lake.gold_events import encode_events, find_later_reader, reaches_behind, touched_from
from recsys.lake.sequences import Horizon
from recsys.lake.tables import Commit, Lake

_SLICES = 8
_FILES_A_TASK = 8


@dataclass(frozen=True)
class GoldCounts:
    """What a night merged, and rows of the tables that it wrote.

    Attributes:
        events: events that the base night did not have.
        sequences: users.
        training_windows: windows written, of which ``settled_windows`` are final from now on.
        touched_users: users with new events.
        base: the night that this one went on from; ``None``: all events were read.
    """

    events: int
    sequences: int
    training_windows: int
    settled_windows: int
    holdout_users: int
    touched_users: int
    base: date | None


@dataclass(frozen=True)
class GoldNight:
    """What a night did.

    Attributes:
        events_version: the version of silver/events that it read.
        written: table name to the version that it wrote.
        caught_up_by: the later night that has read all events up to this one, so that it was left
            none and wrote nothing. It came before the lake's first night, or both were the first
            and ran at once: the later one's logs begin where none were read before.
    """

    counts: GoldCounts
    events_version: int
    written: dict[str, int]
    caught_up_by: date | None = None


@dataclass(frozen=True)
class _Plan:
    """How many windows are to be written, and how many rows make a file."""

    settled: int
    open: int
    rows_per_file: int


def build_gold(lake: Lake, run_date: date) -> GoldNight:
    """Bring the gold tables to the end of ``run_date``.

    Raises:
        LakeError: there are no events up to the date.
    """
    base = find_base(lake, run_date)
    silver = lake.version(schemas.SILVER_EVENTS)
    if base is not None and reaches_behind(lake, silver, base, run_date):
        base = None
    gold = lake.settings.gold
    horizon = Horizon.of(gold, lake.settings.silver.late_days, run_date)
    events = encode_events(lake, silver, base, run_date)
    users = lake.read(schemas.SILVER_USERS).select(schemas.USER_ID, schemas.USER_IDX)
    state = _read_base(lake, schemas.GOLD_SEQUENCES, base)
    merged = sequences.merge_events(
        state and state.select(*sequences.STATE), events, users, gold, horizon
    )
    merged = merged.persist(StorageLevel.MEMORY_AND_DISK)
    try:
        added, touched, people, settled, open_ = _count(lake, merged, horizon)
        if not people:
            later = find_later_reader(lake, silver, run_date)
            return GoldNight(GoldCounts(0, 0, 0, 0, 0, 0, None), silver, {}, later)
        every = max(1, min(gold.rows_per_row_group, (settled + open_) // gold.min_row_groups))
        commits = lake.in_parallel(
            lambda: _write_sequences(lake, merged),
            lambda: _write_training(lake, merged, horizon, base, _Plan(settled, open_, every)),
            lambda: _write_holdout(lake, merged, horizon),
            lambda: _write_ratings(lake, events, users, base),
            lambda: _write_item_stats(lake, events, state, base),
        )
    finally:
        merged.unpersist()
    counts = GoldCounts(
        added, people, settled + open_, settled, commits[2].rows, touched,
        base.run_date if base else None,
    )  # fmt: skip
    written = {table.name: commit.version for table, commit in zip(_WRITTEN, commits, strict=True)}
    return GoldNight(counts, silver, written)


_WRITTEN = (
    schemas.GOLD_SEQUENCES,
    schemas.GOLD_TRAINING_SEQUENCES,
    schemas.GOLD_HOLDOUT,
    schemas.GOLD_RATINGS,
    schemas.GOLD_ITEM_STATS,
)


def _read_base(lake: Lake, table: schemas.Table, base: Base | None) -> DataFrame | None:
    return None if base is None else lake.read(table, base.versions[table.name])


def _count(lake: Lake, merged: DataFrame, horizon: Horizon) -> tuple[int, ...]:
    """New events, users with such, users, windows that settled, open ones; it caches ``merged``."""
    before = sequences.with_events_before(merged, horizon)
    row = before.agg(
        F.sum(sequences.ADDED),
        F.count_if(F.col(sequences.ADDED) > 0),
        F.count(F.lit(1)),
        F.sum(F.col(sequences.NEXT_WINDOW) - F.col(sequences.FIRST_WINDOW)),
        F.sum(windows.count_open(lake.settings.gold)),
    ).collect()[0]
    return tuple(value or 0 for value in row)


def _write_sequences(lake: Lake, merged: DataFrame) -> Commit:
    rows = sequences.build_sequences(merged, lake.settings.gold)
    # Few files a bucket, but no bucket a single task's work: Spark splits the large ones.
    return lake.replace(schemas.GOLD_SEQUENCES, rows.hint("rebalance", schemas.BUCKET))


def _write_training(
    lake: Lake, merged: DataFrame, horizon: Horizon, base: Base | None, plan: _Plan
) -> Commit:
    """Add the windows that became final, replace the open ones.

    Each file is one row group of one split and bucket. Files are the unit that ranks share out,
    so there are at least ``min_row_groups`` where the rows allow it. Users are mixed by a hash:
    any file is a sample of all.
    """
    gold = lake.settings.gold
    mixed = F.xxhash64(schemas.USER_IDX, schemas.WINDOW)
    parts = [schemas.SPLIT, schemas.BUCKET, schemas.OPEN]
    rows = windows.open_windows(merged, gold, horizon)
    if plan.settled:
        rows = rows.unionByName(windows.settled_windows(merged, gold, horizon))
    # A night settles few windows, which make few files; and no task writes millions.
    few, many = (_cells(rows, plan.rows_per_file) for rows in (plan.settled, plan.open))
    cell = F.pmod(mixed, F.when(F.col(schemas.OPEN), max(many, _SLICES)).otherwise(few))
    placed = rows.repartition(
        lake.settings.spark.shuffle_partitions, *parts, cell
    ).sortWithinPartitions(*parts, mixed)
    # One block a file: a row group never ends before maxRecordsPerFile does.
    options = {
        "maxRecordsPerFile": str(plan.rows_per_file),
        "parquet.block.size": str(1 << 30),
    }
    where = None if base is None else _windows_after(lake, base)
    return _carry_on(lake, schemas.GOLD_TRAINING_SEQUENCES, placed, where, base, options)


def _carry_on(
    lake: Lake,
    table: schemas.Table,
    rows: DataFrame,
    where: str | None,
    base: Base | None,
    options: Mapping[str, str] | None = None,
) -> Commit:
    """Replace what the base night does not have, provided that the rest is still as it left it."""
    mark = {BASE: str(base.run_date) if base else ""}
    after = base.heads[table.name] if base else None
    return lake.replace(table, rows, where, options, mark, after)


def _cells(rows: int, rows_per_file: int) -> int:
    """Cells of a partition, each a task's work: some files each."""
    return 1 + rows // (_FILES_A_TASK * rows_per_file)


def _windows_after(lake: Lake, base: Base) -> str:
    """What finds the windows that the base night did not have, or had open."""
    later = f"{schemas.SETTLED_ON} > date'{base.run_date}'"
    # Nearly always nobody has been here: whole partitions go, and Delta reads none of their rows.
    none = lake.read(schemas.GOLD_TRAINING_SEQUENCES).where(later).isEmpty()
    return schemas.OPEN if none else f"{schemas.OPEN} or {later}"


def _write_holdout(lake: Lake, merged: DataFrame, horizon: Horizon) -> Commit:
    rows = sequences.build_holdout(merged, lake.settings.gold, horizon)
    return lake.replace(schemas.GOLD_HOLDOUT, rows)


def _write_ratings(lake: Lake, events: DataFrame, users: DataFrame, base: Base | None) -> Commit:
    before, where = _last_days(lake, schemas.GOLD_RATINGS, base)
    ratings = daily.build_ratings(events, users, before)
    return _write_days(lake, schemas.GOLD_RATINGS, ratings, where, base)


def _write_item_stats(
    lake: Lake, events: DataFrame, state: DataFrame | None, base: Base | None
) -> Commit:
    before, where = _last_days(lake, schemas.GOLD_ITEM_STATS, base)
    if base is None or before is None or state is None:
        stats = daily.build_item_stats(events)
        return _write_days(lake, schemas.GOLD_ITEM_STATS, stats, where, base)
    late = events.where(F.col(schemas.EVENT_DATE) <= F.lit(base.run_date))
    # Few, and used twice: to plan the reads behind them again takes longer than to keep them.
    pairs = daily.find_pairs(late).persist()
    try:
        stats = daily.add_item_stats(before, events, pairs, state)
        return _write_days(lake, schemas.GOLD_ITEM_STATS, stats, where, base)
    finally:
        pairs.unpersist()


def _last_days(
    lake: Lake, table: schemas.Table, base: Base | None
) -> tuple[DataFrame | None, str | None]:
    """The base's rows of the days that the night may touch, and the condition that finds them."""
    rows = _read_base(lake, table, base)
    if base is None or rows is None:
        return None, None
    where = f"{schemas.EVENT_DATE} >= date'{touched_from(lake, base)}'"
    return rows.where(where), where


def _write_days(
    lake: Lake, table: schemas.Table, rows: DataFrame, where: str | None, base: Base | None
) -> Commit:
    # Few files a day; a night replaces the last days.
    return _carry_on(lake, table, rows.hint("rebalance", schemas.EVENT_DATE), where, base)
