"""The events that a night's gold is built from: those that the base night did not have."""

from __future__ import annotations

from datetime import date, timedelta

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import LakeError
from recsys.lake.base import Base
from recsys.lake.tables import Lake


def new_events(lake: Lake, silver: int, base: Base | None, run_date: date) -> DataFrame:
    """The events that ``run_date`` counts and the base night did not."""
    events = _counted(lake, silver, run_date)
    if base is None:
        return events
    # Two reads, of which Delta opens the files of the last nights alone: it can't skip any by a
    # partition's value *or* a column's. A clock ahead of ours puts an event into the night before
    # its day; mostly none was, and then no file is left, which is known before any is read.
    last, ingested = F.lit(base.run_date), F.col(schemas.INGEST_DATE)
    ahead = events.where((ingested <= last) & (F.col(schemas.EVENT_DATE) > last))
    came = events.where(ingested > last)
    return came.unionByName(ahead) if ahead.inputFiles() else came


def _counted(lake: Lake, silver: int, run_date: date) -> DataFrame:
    """All events that ``run_date`` counts."""
    day, ingested = F.col(schemas.EVENT_DATE), F.col(schemas.INGEST_DATE)
    counts = (day <= F.lit(run_date)) & (ingested <= F.lit(run_date))
    return lake.read(schemas.SILVER_EVENTS, silver).where(counts)


def find_later_reader(lake: Lake, silver: int, run_date: date) -> date:
    """The later night that has read all events up to ``run_date``, so that it is left none.

    Raises:
        LakeError: there are no events up to the date, or some are this night's own.
    """
    events = lake.read(schemas.SILVER_EVENTS, silver if silver >= 0 else None)
    known = events.where(F.col(schemas.EVENT_DATE) <= F.lit(run_date))
    first: date | None = known.agg(F.min(schemas.INGEST_DATE)).collect()[0][0]
    if first is not None and first > run_date:
        return first
    if first is None:
        what, do = f"no events up to {run_date}", f"run build_silver for {run_date} first"
    else:
        what = f"no event up to {run_date} is of a known user and item"
        do = f"run build_silver for {first} again, with --force: it indexes them"
    raise LakeError(what, where=lake.path(schemas.SILVER_EVENTS), do=do)


def touched_from(lake: Lake, base: Base) -> date:
    """First day that a night after the base may add events to."""
    return base.run_date + timedelta(days=1 - lake.settings.silver.late_days)


def reaches_behind(lake: Lake, silver: int, base: Base, run_date: date) -> bool:
    """Whether an event came for a day that the base night has settled already.

    A snapshot may bring such; a daily log's are rejected.
    """
    events = _counted(lake, silver, run_date).where(
        (F.col(schemas.INGEST_DATE) > F.lit(base.run_date))
        & (F.col(schemas.EVENT_DATE) < F.lit(touched_from(lake, base)))
    )
    # Mostly Delta's log says already that there is no such file.
    return bool(events.inputFiles()) and not events.isEmpty()


def encode_events(lake: Lake, silver: int, base: Base | None, run_date: date) -> DataFrame:
    """The night's events with item indices and event type codes, from one version of the table.

    Its columns are read again for each use: that costs less than a copy of all events in memory.
    User ids stay: a user's rows are grouped first and the index is looked up once a user, not once
    an event.
    """
    codes = F.create_map(*[F.lit(x) for pair in schemas.EVENT_TYPE_CODES.items() for x in pair])
    items = lake.read(schemas.SILVER_ITEMS).select(schemas.ITEM_ID, schemas.ITEM_IDX)
    return (
        new_events(lake, silver, base, run_date)
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
