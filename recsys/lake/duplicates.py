"""Which records say what another one has said before."""

from __future__ import annotations

import re
from datetime import date, timedelta

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.window import WindowSpec

from recsys import schemas
from recsys.lake.tables import Lake

DUPLICATE = "_duplicate"
_GROUP = "_group"
_CONTENT = (schemas.RAW_USER_ID, schemas.ITEM_ID, schemas.EVENT_TYPE)
_FIGURES = (schemas.RATING, schemas.VALUE)
_PLACE = (schemas.SOURCE_FILE, schemas.SOURCE_OFFSET)
_KEY = (schemas.EVENT_DATE, schemas.EVENT_ID)


def mark_duplicates(parsed: DataFrame, near_seconds: int, many_days: bool, tasks: int) -> DataFrame:
    """Add whether an earlier record of the night says the same.

    A duplicate repeats the same user, item and type within ``near_seconds`` of the record before
    it in the same day's log, or is equal to a record of another day's log. Days are looked at on
    their own so that a night that reads several of them finds what as many nights would.

    Args:
        parsed: records with reason and log_date; text columns of good ones are dropped.
        many_days: the night reads more than one day's log.
        tasks: that the records are shared out to.
    """
    rejected = F.col(schemas.REASON).isNotNull()
    # Rows are shuffled by one number instead of three strings, and only a reject keeps its line.
    # A reject's number is its own: a flood of nulls is no skewed key.
    group = F.when(rejected, F.xxhash64(*_PLACE)).otherwise(F.xxhash64(*_CONTENT))
    kept = F.when(rejected, F.col(schemas.RAW))
    events = parsed.withColumns({schemas.RAW: kept, _GROUP: group})
    # One shuffle serves both windows: Spark would cut each by all of its own columns otherwise.
    events = events.repartition(tasks, _GROUP)
    day = [schemas.LOG_DATE] if many_days else []
    order = Window.partitionBy(_GROUP, *day).orderBy(schemas.EVENT_TS, *_PLACE)
    moment = F.unix_micros(schemas.EVENT_TS)
    near = moment - F.lag(moment).over(order) <= near_seconds * 1_000_000
    marked = events.withColumn(DUPLICATE, _said(near & _same(_CONTENT, order)) & ~rejected)
    if many_days:
        exact = Window.partitionBy(_GROUP, DUPLICATE).orderBy(
            schemas.EVENT_TS, *_FIGURES, schemas.LOG_DATE, *_PLACE
        )
        again = _said(_same((*_CONTENT, schemas.EVENT_TS, *_FIGURES), exact))
        marked = marked.withColumn(DUPLICATE, F.col(DUPLICATE) | (again & ~rejected))
    places = {name: F.when(rejected, F.col(name)) for name in _PLACE}
    return marked.withColumns(places).drop(_GROUP)


def _same(names: tuple[str, ...], order: WindowSpec) -> Column:
    """Equal to the row before; of two missing figures there is no telling, so they are equal."""
    same = F.lit(True)
    for name in names:
        before = F.lag(name).over(order)
        same &= before.eqNullSafe(F.col(name)) if name in _FIGURES else before == F.col(name)
    return same


def _said(condition: Column) -> Column:
    return F.coalesce(condition, F.lit(False))


def add_event_ids(events: DataFrame) -> DataFrame:
    """Add event_id, a hash of all that an event says.

    It is made where it is needed: 32 characters that nothing can compress would double what a night
    shuffles and keeps.
    """
    figures = [F.unix_micros(schemas.EVENT_TS), *map(F.col, _FIGURES)]
    parts = [F.col(schemas.USER_ID), *map(F.col, _CONTENT[1:]), *figures]
    texts = [F.coalesce(part.cast("string"), F.lit("")) for part in parts]
    return events.withColumn(schemas.EVENT_ID, F.md5(F.concat_ws("\u001f", *texts)))


def known_before(
    lake: Lake, version: int, good: DataFrame, first: date | None, run_date: date
) -> DataFrame | None:
    """event_date and event_id of the night's good events that another night has brought.

    Args:
        version: of silver/events.
        good: the night's events, cached: they are read twice.
        first: no event is older (a daily log's late days); ``None``: any may be.

    Returns:
        Cached; ``None`` where no other night has events of the same days.
    """
    others = lake.read(schemas.SILVER_EVENTS, version if version >= 0 else None)
    others = others.where(F.col(schemas.INGEST_DATE) != F.lit(run_date))
    if first is not None:
        # A clock may be ahead: an event of tomorrow.
        days = (F.lit(first), F.lit(run_date + timedelta(days=1)))
        others = others.where(F.col(schemas.EVENT_DATE).between(*days))
    # The names of the files say it (Delta gives those that the conditions leave): no row is read.
    dates = {found for file in others.inputFiles() if (found := _date_of(file)) is not None}
    if not dates:
        return None
    # Mostly these are the late events alone: few, so the others' ids are not shuffled.
    same_days = good.where(F.col(schemas.EVENT_DATE).isin(*map(F.lit, sorted(dates))))
    touched = add_event_ids(same_days).select(*_KEY)
    return others.select(*_KEY).join(touched, list(_KEY), "left_semi").persist()


def _date_of(file: str) -> date | None:
    """The partition that a file of silver/events lies in."""
    found = re.findall(rf"/{schemas.EVENT_DATE}=(\d{{4}}-\d\d-\d\d)/", file)
    return date.fromisoformat(found[-1]) if found else None


def without(good: DataFrame, known: DataFrame | None) -> DataFrame:
    """The events that no other night has brought."""
    if known is None:
        return good
    return add_event_ids(good).join(known, list(_KEY), "left_anti").drop(schemas.EVENT_ID)
