"""Bronze to silver: each record becomes an event, a duplicate or a reject, and they add up."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from math import ceil

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import InputError
from recsys.lake.accounting import (
    Counted,
    SilverCounts,
    check_rejects,
    count_days,
    count_records,
    reconcile,
)
from recsys.lake.bronze import drop_headers, read_header
from recsys.lake.catalogue import add_titles, load_catalogue, update_titles
from recsys.lake.commits import NIGHT
from recsys.lake.duplicates import (
    DUPLICATE,
    add_event_ids,
    known_before,
    mark_duplicates,
    without,
)
from recsys.lake.files import log_date
from recsys.lake.formats import LogFormat
from recsys.lake.indices import append_new_ids, without_known
from recsys.lake.parse import parse_records
from recsys.lake.pseudonyms import add_pseudonyms, check_key, load_key
from recsys.lake.tables import Lake
from recsys.lake.user_attributes import load_user_attributes, write_user_attributes

_RECORDS_A_TASK = 250_000
"""A task sorts so many in memory, some 50 MB; more would be written to disk and read again."""


@dataclass(frozen=True)
class _Night:
    """What a night reads.

    Attributes:
        input_root: where the catalogue lies.
        since: the night before.
        version: of silver/events that the night's events are compared with.
    """

    lake: Lake
    log: LogFormat
    input_root: str | None
    since: date | None
    run_date: date
    version: int

    @property
    def reads_many_days(self) -> bool:
        """Whether the logs of several days are read."""
        return self.log.layout == "daily" and self.since != self.run_date - timedelta(days=1)

    @property
    def first_day(self) -> date | None:
        """No event is older than this day; ``None``: any may be."""
        if self.log.layout == "snapshot" or self.since is None:
            return None
        return self.since + timedelta(days=1 - self.lake.settings.silver.late_days)

    @property
    def rows(self) -> str:
        """What finds the night's rows in a table."""
        return f"{schemas.INGEST_DATE} = '{self.run_date}'"


def build_silver(
    lake: Lake, log: LogFormat, input_root: str | None, since: date | None, run_date: date
) -> SilverCounts:
    """Turn the night's bronze records into events, rejects and new ids.

    Every write replaces what an earlier try of the same night wrote, so a re-run changes nothing.

    Args:
        since: the night before; events of that day and older ones count as late.

    Raises:
        InputError: no records, wrong columns, or more rejects than ``ingest.max_reject_share``.
        LakeError: the counts do not add up, or the pseudonym key is another one.
        ConflictError: another run has written the same tables meanwhile.
    """
    key = load_key(lake.settings)
    check_key(lake, key)
    people = load_user_attributes(lake, log, input_root, key)
    night = _Night(lake, log, input_root, since, run_date, lake.version(schemas.SILVER_EVENTS))
    bronze = lake.read(schemas.BRONZE_EVENTS).where(night.rows)
    records = drop_headers(bronze, log)
    read = records.count()
    marked = mark_duplicates(
        _parse(night, bronze, records),
        lake.settings.silver.near_duplicate_seconds,
        night.reads_many_days,
        max(lake.spark.sparkContext.defaultParallelism, ceil(read / _RECORDS_A_TASK)),
    )
    marked = add_pseudonyms(marked, key).persist(StorageLevel.DISK_ONLY)
    try:
        counted = count_records(marked)
        try:
            check_rejects(lake, log, counted, marked, run_date)
        except InputError:
            _write_rejects(night, marked)
            raise
        counts = _write(night, marked, counted, people)
        reconcile(counts, read)
        return counts
    finally:
        marked.unpersist()


def _parse(night: _Night, bronze: DataFrame, records: DataFrame) -> DataFrame:
    """The records with their columns, reason and the day of the log that they came in."""
    silver, log = night.lake.settings.silver, night.log
    parsed = parse_records(
        records,
        log,
        read_header(bronze, log),
        night.run_date,
        silver.future_tolerance_seconds,
        silver.late_days,
    )
    if log.layout == "snapshot":
        day = F.col(schemas.EVENT_DATE)
    else:
        day = log_date(log) if night.reads_many_days else F.lit(night.run_date)
    return parsed.withColumn(schemas.LOG_DATE, day)


def _write(
    night: _Night, marked: DataFrame, counted: Counted, people: DataFrame | None
) -> SilverCounts:
    lake, people = night.lake, people and people.persist()
    valid = marked.where(F.col(schemas.REASON).isNull())
    users, aside = _find_users(lake, valid)
    valid = _without_users(valid, aside)
    good = valid.where(~F.col(DUPLICATE))
    known = known_before(lake, night.version, good, night.first_day, night.run_date)
    again = {} if known is None else count_days(known)
    new = without(good, known if again else None)
    catalogue = load_catalogue(lake, night.log, night.input_root)
    try:
        rejects, set_aside, new_users, new_items, written, _ = lake.in_parallel(
            lambda: _write_rejects(night, marked),
            lambda: _write_set_aside(night, aside),
            # Of duplicates too: a night that was killed may have left their events without ids.
            lambda: _append_users(night, _add_quiet(night, users, people)),
            lambda: _append_items(lake, valid, catalogue),
            lambda: _write_events(night, new),
            lambda: write_user_attributes(lake, people),
        )
    finally:
        for frame in (users, aside, known, people):
            if frame is not None:
                frame.unpersist()
    return counted.settle(night.since, again, written, rejects, set_aside, new_users, new_items)


def _find_users(lake: Lake, valid: DataFrame) -> tuple[DataFrame, DataFrame | None]:
    """The night's users (cached), and who is above the cap on which day (``None``: nobody)."""
    cap = lake.settings.silver.max_user_events_per_day
    users = _group_users(valid).persist()
    many = users.where(F.col(schemas.EVENTS) > cap).select(schemas.USER_ID)
    if many.isEmpty():
        return users, None
    days = (
        valid.where(~F.col(DUPLICATE))
        .join(F.broadcast(many), schemas.USER_ID, "left_semi")
        .groupBy(schemas.USER_ID, schemas.LOG_DATE)
        .agg(F.count(F.lit(1)).alias(schemas.EVENTS))
    )
    aside = days.where(F.col(schemas.EVENTS) > cap).persist()
    aside.count()
    users.unpersist()
    return _group_users(_without_users(valid, aside)).persist(), aside


def _without_users(valid: DataFrame, aside: DataFrame | None) -> DataFrame:
    if aside is None:
        return valid
    return valid.join(F.broadcast(aside), [schemas.USER_ID, schemas.LOG_DATE], "left_anti")


def _group_users(valid: DataFrame) -> DataFrame:
    return valid.groupBy(schemas.USER_ID, schemas.RAW_USER_ID).agg(
        F.min(schemas.EVENT_DATE).alias(schemas.FIRST_SEEN),
        F.count_if(~F.col(DUPLICATE)).alias(schemas.EVENTS),
    )


def _write_set_aside(night: _Night, aside: DataFrame | None) -> int:
    """Note who was set aside; the number of their events, duplicates left out."""
    lake, table = night.lake, schemas.SILVER_SET_ASIDE
    before = lake.read(table).where(night.rows)
    if aside is None and before.isEmpty():
        return 0
    rows = before.limit(0).drop(schemas.INGEST_DATE) if aside is None else aside
    lake.replace(table, rows.withColumn(schemas.INGEST_DATE, F.lit(night.run_date)), night.rows)
    return int(rows.agg(F.coalesce(F.sum(schemas.EVENTS), F.lit(0))).collect()[0][0])


def _write_rejects(night: _Night, marked: DataFrame) -> int:
    rejects = marked.where(F.col(schemas.REASON).isNotNull())
    dated = rejects.withColumn(schemas.INGEST_DATE, F.lit(night.run_date))
    return night.lake.replace(schemas.BRONZE_REJECTS, dated, night.rows).rows


def _add_quiet(night: _Night, users: DataFrame, people: DataFrame | None) -> DataFrame:
    """With those whom the file of users names, and who have done nothing this night."""
    if people is None:
        return users
    quiet = people.join(users, schemas.USER_ID, "left_anti").select(
        schemas.USER_ID,
        schemas.RAW_USER_ID,
        F.lit(night.run_date).alias(schemas.FIRST_SEEN),
        F.lit(0).alias(schemas.EVENTS),
    )
    return users.unionByName(quiet)


def _append_users(night: _Night, users: DataFrame) -> int:
    """Index new users and note in the vault who they are; each re-run adds what lacks."""
    lake = night.lake
    dated = users.withColumn(schemas.INGEST_DATE, F.lit(night.run_date))

    def index() -> int:
        return append_new_ids(lake, schemas.SILVER_USERS, dated, schemas.USER_IDX)

    def fill_vault() -> int:
        vault = schemas.SILVER_USER_VAULT
        if not lake.settings.privacy.pseudonyms:
            return 0
        version = lake.version(vault)
        new = without_known(lake, vault, users, version)
        return 0 if new.isEmpty() else lake.append(vault, new, after=version).rows

    return lake.in_parallel(index, fill_vault)[0]


def _append_items(lake: Lake, valid: DataFrame, catalogue: DataFrame | None) -> int:
    update_titles(lake, catalogue)
    first = F.min(schemas.EVENT_DATE).alias(schemas.FIRST_SEEN)
    items = valid.groupBy(schemas.ITEM_ID).agg(first)
    titled = add_titles(items, catalogue)
    return append_new_ids(lake, schemas.SILVER_ITEMS, titled, schemas.ITEM_IDX)


def _write_events(night: _Night, new: DataFrame) -> int:
    """Replace the night's events; no commit where they are there already, each one equal."""
    lake, table, where = night.lake, schemas.SILVER_EVENTS, None
    if night.version >= 0:
        before = lake.read(table, night.version).where(night.rows)
        if not before.isEmpty():
            if (found := _digest(before)) == _digest(add_event_ids(new)):
                return found[0]
            where = night.rows
    # Few files a date, but no date a single task's work: Spark splits the large ones.
    dated = new.withColumn(schemas.INGEST_DATE, F.lit(night.run_date))
    rows = add_event_ids(dated.hint("rebalance", schemas.EVENT_DATE))
    write = lake.append if where is None else partial(lake.replace, where=where)
    return write(table, rows, mark={NIGHT: str(night.run_date)}, after=night.version).rows


def _digest(events: DataFrame) -> tuple[int, int]:
    """Their number, and the sum of their ids' hashes: an id is a hash of all that an event says."""
    halves = F.xxhash64(schemas.EVENT_ID).cast("decimal(38,0)")
    return tuple(events.agg(F.count(F.lit(1)), F.sum(halves)).collect()[0])
