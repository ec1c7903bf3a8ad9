"""Bronze to silver: each record becomes an event, a duplicate or a reject, and they add up."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

from pyspark import StorageLevel
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import InputError, LakeError
from recsys.lake.bronze import drop_headers, read_header
from recsys.lake.catalogue import add_titles, load_catalogue, update_titles
from recsys.lake.formats import LogFormat
from recsys.lake.indices import append_new_ids, without_known
from recsys.lake.parse import parse_records
from recsys.lake.pseudonyms import add_pseudonyms, check_key, load_key
from recsys.lake.tables import Lake

_DUPLICATE = "_duplicate"
_GROUP = "_group"
_ONLY_OF_REJECTS = (schemas.SOURCE_FILE, schemas.SOURCE_OFFSET, schemas.RAW)


@dataclass(frozen=True)
class SilverCounts:
    """What became of the records of a night; ``read = events + duplicates + rejects``."""

    read: int
    events: int
    duplicates: int
    rejects: int
    late: int
    new_users: int
    new_items: int
    reasons: dict[str, int] = field(default_factory=dict)


def build_silver(
    lake: Lake, log: LogFormat, input_root: str | None, since: date | None, run_date: date
) -> SilverCounts:
    """Turn the night's bronze records into events, rejects and new ids.

    Every write replaces what an earlier try of the same night wrote, so a re-run changes nothing.

    Args:
        since: the night before; older events than that count as late.

    Raises:
        InputError: no records, wrong columns, or more rejects than ``ingest.max_reject_share``.
        LakeError: the counts do not add up, or the pseudonym key is another one.
    """
    key = load_key(lake.settings)
    check_key(lake, key)
    night = F.col(schemas.INGEST_DATE) == F.lit(run_date)
    bronze = lake.read(schemas.BRONZE_EVENTS).where(night)
    header = read_header(bronze, log)
    records = drop_headers(bronze, log)
    tolerance = lake.settings.silver.future_tolerance_seconds
    parsed = parse_records(records, log, header, run_date, tolerance)
    marked = _mark_duplicates(lake, add_pseudonyms(parsed, key), run_date)
    marked = marked.persist(StorageLevel.MEMORY_AND_DISK)
    try:
        reasons, duplicates, events, late = _count(marked, since)
        read = sum(reasons.values()) + duplicates + events
        try:
            _check_rejects(lake, log, read, reasons, marked, run_date)
        except InputError:
            _write_rejects(lake, marked, run_date)
            raise
        valid = marked.where(F.col(schemas.REASON).isNull())
        good = valid.where(~F.col(_DUPLICATE))
        catalogue = load_catalogue(lake, log, input_root)
        records_read, rejects, new_users, new_items, written = lake.in_parallel(
            records.count,
            lambda: _write_rejects(lake, marked, run_date),
            # Of duplicates too: a night that was killed may have left their events without ids.
            lambda: _append_users(lake, valid, run_date, has_vault=key is not None),
            lambda: _append_items(lake, valid, catalogue),
            lambda: _write_events(lake, good, run_date),
        )
        counts = SilverCounts(
            read, written, duplicates, rejects, late, new_users, new_items, reasons
        )
        _reconcile(counts, records_read)
        return counts
    finally:
        marked.unpersist()


def _mark_duplicates(lake: Lake, parsed: DataFrame, run_date: date) -> DataFrame:
    """Add event_id, event_date and whether an earlier record says the same.

    A duplicate repeats the same user, item and type within ``silver.near_duplicate_seconds`` of
    the record before it, or equals an event that another night brought.
    """
    content = [schemas.USER_ID, schemas.ITEM_ID, schemas.EVENT_TYPE]
    figures = [F.unix_micros(schemas.EVENT_TS), F.col(schemas.RATING), F.col(schemas.VALUE)]
    texts = [F.coalesce(c.cast("string"), F.lit("")) for c in [*map(F.col, content), *figures]]
    rejected = F.col(schemas.REASON).isNotNull()
    # Rows are shuffled by one number instead of three strings, and only a reject keeps its line.
    # A reject's number is its own: a flood of nulls is no skewed key.
    place = F.xxhash64(schemas.SOURCE_FILE, schemas.SOURCE_OFFSET)
    events = parsed.withColumns(
        {
            schemas.EVENT_DATE: F.to_date(schemas.EVENT_TS),
            schemas.RAW: F.when(rejected, F.col(schemas.RAW)),
            _GROUP: F.when(rejected, place).otherwise(F.xxhash64(*content)),
        }
    )
    order = Window.partitionBy(_GROUP).orderBy(
        schemas.EVENT_TS, schemas.SOURCE_FILE, schemas.SOURCE_OFFSET
    )
    micros = F.unix_micros(schemas.EVENT_TS)
    near = micros - F.lag(micros).over(order) <= (
        lake.settings.silver.near_duplicate_seconds * 1_000_000
    )
    for name in content:
        near &= F.lag(name).over(order) == F.col(name)
    marked = events.withColumn(_DUPLICATE, F.coalesce(near, F.lit(False)) & ~rejected)
    marked = marked.withColumns(
        {
            schemas.EVENT_ID: F.md5(F.concat_ws("\u001f", *texts)),
            **{name: F.when(rejected, F.col(name)) for name in _ONLY_OF_REJECTS},
        }
    ).drop(_GROUP)
    if not lake.exists(schemas.SILVER_EVENTS):
        return marked
    keys = [schemas.EVENT_DATE, schemas.EVENT_ID]
    others = lake.read(schemas.SILVER_EVENTS).where(F.col(schemas.INGEST_DATE) != F.lit(run_date))
    known = others.select(*keys, F.lit(True).alias("_known"))
    again = F.col("_known").isNotNull() & F.col(schemas.REASON).isNull()
    return (
        marked.join(known, keys, "left")
        .withColumn(_DUPLICATE, F.col(_DUPLICATE) | again)
        .drop("_known")
    )


def _count(marked: DataFrame, since: date | None) -> tuple[dict[str, int], int, int, int]:
    old = F.lit(False) if since is None else F.col(schemas.EVENT_DATE) <= F.lit(since)
    rows = (
        marked.groupBy(schemas.REASON, _DUPLICATE)
        .agg(F.count(F.lit(1)), F.count_if(F.coalesce(old, F.lit(False))))
        .collect()
    )
    reasons = {reason: count for reason, _, count, _ in rows if reason is not None}
    duplicates = sum(count for reason, again, count, _ in rows if reason is None and again)
    good = [(count, late) for reason, again, count, late in rows if reason is None and not again]
    return reasons, duplicates, sum(c for c, _ in good), sum(n for _, n in good)


def _write_rejects(lake: Lake, marked: DataFrame, run_date: date) -> int:
    rejects = marked.where(F.col(schemas.REASON).isNotNull())
    where = f"{schemas.INGEST_DATE} = '{run_date}'"
    return lake.replace(schemas.BRONZE_REJECTS, rejects, where).rows


def _check_rejects(
    lake: Lake,
    log: LogFormat,
    read: int,
    reasons: dict[str, int],
    marked: DataFrame,
    run_date: date,
) -> None:
    if read == 0:
        raise InputError(
            f"no records were ingested for {run_date}",
            where=lake.path(schemas.BRONZE_EVENTS),
            do=f"run ingest for {run_date} first",
        )
    limit = lake.settings.ingest.max_reject_share
    counted = {r: n for r, n in reasons.items() if r not in log.tolerated_rejects}
    tolerated = sum(reasons.values()) - sum(counted.values())
    if tolerated == read:
        raise InputError(
            f"no data up to {run_date}: all {read} records are later",
            do="choose a later --date, or check the log's `timestamp` format",
        )
    share = sum(counted.values()) / (read - tolerated)
    if share <= limit:
        return
    worst = max(counted, key=lambda reason: counted[reason])
    example = (
        marked.where(F.col(schemas.REASON) == worst)
        .orderBy(schemas.SOURCE_FILE, schemas.SOURCE_OFFSET)
        .select(schemas.SOURCE_FILE, schemas.SOURCE_OFFSET)
        .first()
    )
    assert example is not None, "the reason was counted"
    listed = ", ".join(f"{r} {n}" for r, n in sorted(counted.items(), key=lambda x: -x[1]))
    raise InputError(
        f"{share:.1%} of {read} records were rejected, allowed are {limit:.1%}: {listed}",
        where=f"first {worst}: {example[0]}:{example[1]}; "
        f"all in {lake.path(schemas.BRONZE_REJECTS)}",
        do="check that the log has the format's columns (conf/formats), or raise "
        "ingest.max_reject_share; nothing was published",
    )


def _append_users(lake: Lake, valid: DataFrame, run_date: date, has_vault: bool) -> int:
    """Index new users and note in the vault who they are; each re-run adds what lacks."""
    first = F.min(schemas.EVENT_DATE).alias(schemas.FIRST_SEEN)
    users = valid.groupBy(schemas.USER_ID, schemas.RAW_USER_ID).agg(first).persist()
    dated = users.withColumn(schemas.INGEST_DATE, F.lit(run_date))

    def index() -> int:
        return append_new_ids(lake, schemas.SILVER_USERS, dated, schemas.USER_IDX)

    def fill_vault() -> int:
        vault = schemas.SILVER_USER_VAULT
        return lake.append(vault, without_known(lake, vault, users)).rows if has_vault else 0

    try:
        return lake.in_parallel(index, fill_vault)[0]
    finally:
        users.unpersist()


def _append_items(lake: Lake, valid: DataFrame, catalogue: DataFrame | None) -> int:
    update_titles(lake, catalogue)
    first = F.min(schemas.EVENT_DATE).alias(schemas.FIRST_SEEN)
    items = valid.groupBy(schemas.ITEM_ID).agg(first)
    titled = add_titles(items, catalogue)
    return append_new_ids(lake, schemas.SILVER_ITEMS, titled, schemas.ITEM_IDX)


def _write_events(lake: Lake, good: DataFrame, run_date: date) -> int:
    # Few files a date, but no date a single task's work: Spark splits the large ones.
    dated = good.hint("rebalance", schemas.EVENT_DATE)
    where = f"{schemas.INGEST_DATE} = '{run_date}'"
    return lake.replace(schemas.SILVER_EVENTS, dated, where).rows


def _reconcile(counts: SilverCounts, read: int) -> None:
    parts = counts.events + counts.duplicates + counts.rejects
    if read != parts or read != counts.read:
        raise LakeError(
            f"records do not add up: read {read} ≠ events {counts.events} + duplicates "
            f"{counts.duplicates} + rejects {counts.rejects}",
            where="build_silver",
            do="run the night again; if it stays, the bronze table was changed while it ran",
        )
