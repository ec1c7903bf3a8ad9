"""Events to JSON lines, and their place: which day's folder, which file, which order."""

from __future__ import annotations

from datetime import timedelta

from pyspark.sql import Column, DataFrame, Observation
from pyspark.sql import functions as F

from recsys import schemas
from recsys.generate import defects
from recsys.generate.events import CENTS, ITEM, MOMENT, RATING, TYPE
from recsys.generate.sessions import DAY, DAY_MS
from recsys.generate.world import BOT, USER, World, format_cents, format_digits, lookup

LINE, FILE, FOLDER_DATE = "line", "file", "dt"

LINES_PER_FILE = 250_000
_ORDER = "order_ms"


def list_lines(events: DataFrame, world: World) -> DataFrame:
    """One row a line: dt (date of its folder), file (number), order_ms, line, and what to count."""
    files = files_per_day(world.settings.events, world.settings.days)
    folder = F.date_add(F.lit(world.start), F.col(defects.FOLDER).cast("int"))
    # In steps: what is used more than once is then computed, and compiled, once.
    return (
        events.withColumn(_ORDER, F.col(DAY) * DAY_MS + F.col(MOMENT))
        .withColumn(FOLDER_DATE, folder)
        .withColumn(FILE, F.pmod(F.col(USER), F.lit(files)).cast("int"))
        .withColumn("clean", _write_json(world, F.col(_ORDER)))
        .withColumn(LINE, defects.break_line(F.col("clean")))
        .select(FOLDER_DATE, FILE, _ORDER, LINE, defects.DEFECT, defects.COPY, TYPE, BOT)
    )


def files_per_day(events: int, days: int) -> int:
    """Files in a folder: from the size of the log alone, never from the cluster's."""
    return max(1, -(-events // (days * LINES_PER_FILE)))


def order_lines(lines: DataFrame, world: World) -> DataFrame:
    """Bring each file's lines together, in an order that leaves no choice."""
    files = files_per_day(world.settings.events, world.settings.days) * world.settings.days
    # Lines that tie are equal, so their order does not show.
    return lines.repartition(files, FOLDER_DATE, FILE).sortWithinPartitions(
        FOLDER_DATE, FILE, _ORDER, LINE
    )


def count_lines(lines: DataFrame) -> tuple[DataFrame, Observation]:
    """Count by kind while the lines pass by on their way to the files."""
    defect, first = F.col(defects.DEFECT), F.col(defects.COPY) == 0
    good = defect.isNull() | defect.isin(defects.EXACT, defects.NEAR, defects.LATE)
    kinds = {
        "lines": F.lit(True),
        "events": first,
        "clean": first & good & (F.coalesce(defect, F.lit("")) != defects.LATE),
        "good_events": first & good,
        "bot_events": first & F.col(BOT),
        "exact_duplicates": ~first & (defect == defects.EXACT),
        "near_duplicates": ~first & (defect == defects.NEAR),
        "late": defect == defects.LATE,
        "unknown_type": defect == defects.UNKNOWN,
        "bad_rating": defect == defects.BAD_RATING,
        "clock_skew": defect == defects.SKEW,
        "malformed": defect.isin(*defects.MALFORMED),
        **{kind: defect == kind for kind in defects.MALFORMED},
        **{f"good_{t}": first & good & (F.col(TYPE) == t) for t in schemas.EVENT_TYPE_CODES},
    }
    observation = Observation("generated")
    counts = [F.count_if(counted).alias(kind) for kind, counted in kinds.items()]
    return lines.observe(observation, *counts), observation


def _write_json(world: World, at: Column) -> Column:
    # Text glued by hand: keys in a fixed order, absent ones left out, no time zone of the session.
    parts = [
        F.lit('{"user":"'), world.user_id(F.col(USER)),
        F.lit('","item":"'), world.item_id(F.col(ITEM)),
        F.lit('","type":"'), F.col(TYPE),
        F.lit('","ts":"'), _iso(world, at), F.lit('"'),
        F.coalesce(F.concat(F.lit(',"rating":'), F.col(RATING).cast("string")), F.lit("")),
        F.coalesce(F.concat(F.lit(',"value":'), format_cents(F.col(CENTS))), F.lit("")),
        F.lit("}"),
    ]  # fmt: skip
    return F.concat(*parts)


def _iso(world: World, at: Column) -> Column:
    """Milliseconds since the first day's midnight as 2026-01-02T03:04:05.123Z."""
    days = world.settings.days + defects.MOST_SKEW_DAYS + 1
    dates = [str(world.start + timedelta(days=day)) for day in range(days)]
    rest = F.pmod(at, F.lit(DAY_MS))
    hour, minute = F.floor(rest / 3_600_000), F.pmod(F.floor(rest / 60_000), F.lit(60))
    # One number, hhmmssSSS, is written once and then cut.
    clock = format_digits(hour * 10**7 + minute * 10**5 + F.pmod(rest, F.lit(60_000)), 9)
    parts = [F.substring(clock, at, width) for at, width in ((1, 2), (3, 2), (5, 2), (7, 3))]
    date = lookup(dates, F.floor(at / DAY_MS))
    time = F.concat_ws(":", *parts[:3])
    return F.concat(date, F.lit("T"), time, F.lit("."), parts[3], F.lit("Z"))
