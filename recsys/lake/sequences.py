"""Each user's events, merged night by night: the state that every other gold table is cut from.

A user's events lie on two sides of a moment, the start of the days that a late event may still
fall into (:class:`Horizon`). Those before it are *settled*: no later night can change them, so
windows over them are final, and only the last few are kept. Those after it are *recent* and kept
one by one. A night's work is so bounded by its own events and by the users, not by history; and
since everything is a function of the events alone, nights in any order end in the same state.

Everything here maps DataFrames to DataFrames; the day's events are shuffled once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.config import Gold
from recsys.schemas import NEW_ITEMS, RECENT, SEEN_ITEMS, SETTLED, SETTLED_COUNT

# Columns of a merged state beside those of gold/sequences that carry on.
ADDED = "_added"
RUNS = "_runs"
RUN_DAYS = "_run_days"
FIRST_WINDOW = "_first_window"
NEXT_WINDOW = "_next_window"
_NEW, _RAW, _SETTLING, _JOINED, _WHOLE = "_new", "_raw", "_settling", "_joined", "_whole"

EVENT = "struct<micros:bigint,item:int,code:int>"
STATE = (schemas.USER_IDX, schemas.USER_ID, SETTLED, SETTLED_COUNT, RECENT, SEEN_ITEMS, NEW_ITEMS)


@dataclass(frozen=True)
class Horizon:
    """The moments that a night is cut at.

    Attributes:
        run_date: the night's date.
        cutoff: first held-out moment (UTC): training sees only what happened before it.
        settled_before: events before it are settled once the night has been merged.
        days: days from ``settled_before`` to the end of the run date.
    """

    run_date: date
    cutoff: datetime
    settled_before: datetime
    days: int

    @classmethod
    def of(cls, gold: Gold, late_days: int, run_date: date) -> Horizon:
        """The horizon of a night: late events and the hold-out both stay on its recent side."""
        days = max(late_days, gold.holdout_days)
        return cls(
            run_date,
            holdout_cutoff(gold, run_date),
            start_of(run_date + timedelta(days=1 - days)),
            days,
        )


def holdout_cutoff(gold: Gold, run_date: date) -> datetime:
    """First held-out moment (UTC): training sees only what happened before it."""
    return start_of(run_date + timedelta(days=1 - gold.holdout_days))


def start_of(day: date) -> datetime:
    """The first moment of a day, UTC."""
    return datetime.combine(day, time(), UTC)


def merge_events(
    state: DataFrame | None, events: DataFrame, users: DataFrame, gold: Gold, horizon: Horizon
) -> DataFrame:
    """Add events to the users' states and move the horizon; one row a user.

    Args:
        state: columns ``STATE`` as the base night left them; ``None`` where there is none.
        events: user_id, item_idx, code, event_ts; none of them before the base night's horizon.
        users: user_id, user_idx.

    Returns:
        ``STATE`` as of the night (``settled`` still uncut) and, of the windows that settled since
        the base: ``_runs`` and ``_run_days`` (events and the day each one's run began), the first
        and the next window number; ``_added``: new events.
    """
    event = F.struct(
        F.unix_micros(schemas.EVENT_TS).alias("micros"),
        F.col(schemas.ITEM_IDX).alias("item"),
        F.col("code").cast("int").alias("code"),
    )
    new = events.groupBy(schemas.USER_ID).agg(F.collect_list(event).alias(_NEW))
    new = new.join(users, schemas.USER_ID)
    joined = new.withColumns(_no_state()) if state is None else _join(state, new)
    raw = joined.withColumn(_RAW, F.sort_array(F.concat(RECENT, _NEW)))
    older = F.size(F.filter(F.col(f"{_RAW}.micros"), lambda m: m < micros(horizon.settled_before)))
    split = raw.withColumn("_older", older).withColumns(
        {
            _SETTLING: F.slice(_RAW, F.lit(1), F.col("_older")),
            RECENT: F.slice(_RAW, F.col("_older") + 1, F.size(_RAW)),
        }
    )
    return _settle(split, gold).select(
        *STATE, RUNS, RUN_DAYS, FIRST_WINDOW, NEXT_WINDOW, F.size(_NEW).alias(ADDED)
    )


def _no_state() -> dict[str, Column]:
    types = {column.name: column.type for column in schemas.GOLD_SEQUENCES.columns}
    empty = {name: F.array().cast(types[name]) for name in (SETTLED, RECENT, SEEN_ITEMS, NEW_ITEMS)}
    return {**empty, SETTLED_COUNT: F.lit(0)}


def _join(state: DataFrame, new: DataFrame) -> DataFrame:
    new = new.withColumnRenamed(schemas.USER_IDX, "_idx")
    filled = {name: F.coalesce(F.col(name), empty) for name, empty in _no_state().items()}
    return (
        state.join(new, schemas.USER_ID, "full_outer")
        .withColumns(filled)
        .withColumn(schemas.USER_IDX, F.coalesce(schemas.USER_IDX, "_idx"))
        .withColumn(_NEW, F.coalesce(_NEW, F.array().cast(f"array<{EVENT}>")))
    )


def _settle(split: DataFrame, gold: Gold) -> DataFrame:
    """Move the events of ``_settling`` to the settled side: count them, note their items."""
    joined = split.withColumn(_JOINED, F.concat(SETTLED, _seconds_of(F.col(_SETTLING))))
    runs = joined.withColumn(RUNS, last_of_runs(_JOINED)).withColumns(
        {
            FIRST_WINDOW: _settled_windows(F.col(SETTLED_COUNT), gold),
            SETTLED_COUNT: F.col(SETTLED_COUNT) + F.size(RUNS) - F.size(SETTLED),
        }
    )
    settled_items = F.array_union(F.array_except(SEEN_ITEMS, NEW_ITEMS), F.col(f"{_SETTLING}.item"))
    counted = runs.withColumns(
        {NEXT_WINDOW: _settled_windows(F.col(SETTLED_COUNT), gold), "_items": settled_items}
    )
    recent_items = F.array_distinct(F.col(f"{RECENT}.item"))
    # Enough to go on from: all after the last final window, and a whole sequence for scoring.
    kept = F.greatest(
        F.col(SETTLED_COUNT) - F.col(NEXT_WINDOW) * gold.sequence_length,
        F.lit(gold.sequence_length + 1),
    )
    settles = F.col(NEXT_WINDOW) > F.col(FIRST_WINDOW)
    return counted.withColumns(
        {
            NEW_ITEMS: F.array_except(recent_items, F.col("_items")),
            SEEN_ITEMS: F.sort_array(F.array_union(F.col("_items"), recent_items)),
            SETTLED: last(F.col(RUNS), kept),
            RUN_DAYS: F.when(settles, _days_of_first(_JOINED)),
            RUNS: F.when(settles, F.col(RUNS)),
        }
    )


def build_sequences(merged: DataFrame, gold: Gold) -> DataFrame:
    """gold/sequences: every user's last ``sequence_length`` events, all seen items, the state."""
    # Scoring knows no cutoff: a run that crosses it is one run here.
    whole = _with_settled(merged, F.col(RECENT), _WHOLE)
    shown = last(F.col(_WHOLE), F.lit(gold.sequence_length))
    return whole.withColumn("_shown", shown).select(
        *STATE,
        *arrays("_shown"),
        _length(_WHOLE).alias(schemas.LENGTH),
        bucket_of(F.size("_shown"), gold.length_buckets).alias(schemas.BUCKET),
    )


def build_holdout(merged: DataFrame, gold: Gold, horizon: Horizon) -> DataFrame:
    """gold/holdout: users with items they first touched at or after the cutoff."""
    before = _before(horizon)
    held = merged.where(F.size(RECENT) > F.size(before)).withColumn(
        schemas.TARGETS, F.sort_array(F.array_except(F.col(NEW_ITEMS), before["item"]))
    )
    known = with_events_before(held.where(F.size(schemas.TARGETS) > 0), horizon)
    shown = last(F.col(_WHOLE), F.lit(gold.sequence_length))
    return known.withColumn("_shown", shown).select(
        schemas.USER_IDX,
        *arrays("_shown"),
        _length(_WHOLE).alias(schemas.LENGTH),
        F.array_except(SEEN_ITEMS, schemas.TARGETS).alias(SEEN_ITEMS),
        schemas.TARGETS,
    )


def with_events_before(merged: DataFrame, horizon: Horizon) -> DataFrame:
    """Add ``_whole``, the last events before the cutoff, and ``_until``, how many there were.

    A run that goes on at or after the cutoff is cut there: what happened before must not depend
    on what came after.
    """
    whole = _with_settled(merged, _before(horizon), _WHOLE)
    return whole.withColumn("_until", _length(_WHOLE))


def _before(horizon: Horizon) -> Column:
    """The recent events before the cutoff: the first ones, as they are in order."""
    held = F.filter(F.col(f"{RECENT}.micros"), lambda m: m < micros(horizon.cutoff))
    return F.slice(RECENT, F.lit(1), F.size(held))


def _with_settled(merged: DataFrame, recent: Column, name: str) -> DataFrame:
    """Settled events and then ``recent`` ones, of each run the last."""
    joined = merged.withColumn(_JOINED, F.concat(SETTLED, _seconds_of(recent)))
    return joined.withColumn(name, last_of_runs(_JOINED)).drop(_JOINED)


def _length(events: str) -> Column:
    """How many events (of each run one) a user has in all, ``events`` being the last of them."""
    return F.col(SETTLED_COUNT) - F.size(SETTLED) + F.size(events)


def _settled_windows(settled: Column, gold: Gold) -> Column:
    """Windows that are final: the event after their last one is settled too, so no run goes on."""
    return F.greatest(F.floor((settled - 2) / gold.sequence_length), F.lit(0)).cast("int")


def _seconds_of(events: Column) -> Column:
    return F.transform(
        events,
        lambda e: F.struct(
            e["item"].alias("item"),
            e["code"].alias("code"),
            F.unix_seconds(F.timestamp_micros(e["micros"])).alias("seconds"),
        ),
    )


def last_of_runs(events: str) -> Column:
    """Of view, click, purchase of one item in a row the last says most.

    A model then predicts the next different item instead of the obvious repeat.
    """
    # Each event beside the next one's item: a lambda that looked the next one up would make Spark
    # compute the whole array again for every element, wherever it moves the expression.
    item = F.col(f"{events}.item")
    following = F.slice(item, F.lit(2), F.size(item))
    kept = F.zip_with(
        events, following, lambda e, after: F.when(after.isNull() | (after != e["item"]), e)
    )
    return F.filter(kept, lambda e: e.isNotNull())


def _days_of_first(events: str) -> Column:
    """The days since 1970 on which each run of one item began."""
    item = F.col(f"{events}.item")
    before = F.concat(F.array(F.lit(None).cast("int")), item)
    days = F.zip_with(
        events,
        F.slice(before, F.lit(1), F.size(item)),
        lambda e, earlier: F.when(
            earlier.isNull() | (earlier != e["item"]),
            F.unix_date(F.to_date(F.timestamp_seconds(e["seconds"]))),
        ),
    )
    return F.filter(days, lambda day: day.isNotNull())


def micros(moment: datetime) -> Column:
    """Microseconds since 1970, as a literal."""
    return F.lit(int(moment.timestamp()) * 1_000_000)


def last(events: Column, length: Column) -> Column:
    """The last ``length`` of an array, or all."""
    return F.slice(events, F.greatest(F.size(events) - length + 1, F.lit(1)), length)


def arrays(events: str, gap: Column | None = None) -> list[Column]:
    """The three parallel arrays of a sequence, with ``gap`` zeros in front."""

    def column(field: str, name: str, kind: str) -> Column:
        values = F.col(f"{events}.{field}")
        if gap is not None:
            values = F.concat(F.array_repeat(F.lit(0).cast(kind), gap), values)
        return values.alias(name)

    return [
        column("item", schemas.ITEMS, "int"),
        column("code", schemas.EVENT_TYPES, "int"),
        column("seconds", schemas.EVENT_TIMES, "bigint"),
    ]


def bucket_of(size: Column, buckets: tuple[int, ...]) -> Column:
    """The smallest of the ascending ``buckets`` that is not below ``size``."""
    chosen = F.lit(buckets[-1])
    for bucket in reversed(buckets[:-1]):
        chosen = F.when(size <= bucket, F.lit(bucket)).otherwise(chosen)
    return chosen
