"""What goes wrong in real logs, planted at set rates and counted by kind.

An event has at most one defect. Exact and near duplicates *add* a line to the clean one; every
other kind *replaces* the clean line. So

    lines  = events + exact_duplicates + near_duplicates
    events = clean + late + malformed + unknown_type + bad_rating + clock_skew

where the clean lines include those that a duplicate repeats.
"""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys.config import Generate
from recsys.errors import ConfigError
from recsys.generate import dice
from recsys.generate.events import MOMENT, RATING, TYPE
from recsys.generate.sessions import DAY, DAY_MS, KEY
from recsys.generate.world import lookup

DEFECT, COPY, FOLDER = "defect", "copy", "folder"

EXACT, NEAR, LATE = "exact_duplicate", "near_duplicate", "late"
MALFORMED = ("malformed_truncated", "malformed_unquoted", "malformed_text")
UNKNOWN, BAD_RATING, SKEW = "unknown_type", "bad_rating", "clock_skew"

_UNKNOWN_TYPES = ("impression", "hover", "VIEWED", "wishlist")
_BAD_RATINGS = (0, 6, 99)
MOST_SKEW_DAYS = 5


def check_rates(settings: Generate) -> None:
    """Refuse rates that do not leave room for each other.

    Raises:
        ConfigError: they add up to more than 1.
    """
    total = sum(rate for _, rate in _rates(settings))
    if total > 1:
        raise ConfigError(
            f"the defect rates of `generate` add up to {total:g}, more than 1",
            do="an event has one defect at most: lower generate.*_rate",
        )


def plant_defects(events: DataFrame, settings: Generate) -> DataFrame:
    """Add defect (name or null), copy (0, or 1 for a planted duplicate) and folder (day number).

    Type, moment, rating and day change where the defect says so; broken JSON is made later, from
    the line.
    """
    key = F.col(KEY)
    which = F.col(DEFECT)
    delay = 1 + dice.below(key, "delay", 3)
    copies = F.when(which.isin(EXACT, NEAR), F.array(F.lit(0), F.lit(1)))
    kind, odd = dice.below(key, "word", len(_UNKNOWN_TYPES)), dice.below(key, "odd", 3)
    skew = (2 + dice.below(key, "skew", 3)) * DAY_MS + dice.below(key, "clock", DAY_MS)
    repeat = 300 + dice.below(key, "repeat", 1_200)
    rating = F.when(which == BAD_RATING, lookup(_BAD_RATINGS, odd)).otherwise(F.col(RATING))
    word = (
        F.when(which == UNKNOWN, lookup(_UNKNOWN_TYPES, kind))
        .when(which == BAD_RATING, F.lit("rating"))
        .otherwise(F.col(TYPE))
    )
    shift = F.when(which == SKEW, skew).when((which == NEAR) & (F.col(COPY) == 1), repeat)
    return (
        events.withColumn("draw", dice.uniform(key, "defect"))
        .withColumn(DEFECT, _draw_defect(settings, F.col(DAY) + delay))
        .withColumn(COPY, F.explode(F.coalesce(copies, F.array(F.lit(0)))))
        .withColumn(FOLDER, F.col(DAY) + F.when(which == LATE, delay).otherwise(0))
        .withColumn(MOMENT, F.col(MOMENT) + F.coalesce(shift, F.lit(0)))
        .withColumn(RATING, rating)
        .withColumn(TYPE, word)
    )


def break_line(line: Column) -> Column:
    """The line, or broken JSON in its place where the defect is one of ``MALFORMED``."""
    truncated, unquoted, text = MALFORMED
    half = F.length(line) / 3 + dice.below(F.col(KEY), "cut", 40)
    return (
        F.when(F.col(DEFECT) == truncated, F.substring(line, F.lit(1), half.cast("int")))
        .when(F.col(DEFECT) == unquoted, F.translate(line, '"', ""))
        .when(F.col(DEFECT) == text, F.concat(F.lit("WARN lost buffer "), F.hex(F.col(KEY))))
        .otherwise(line)
    )


def _draw_defect(settings: Generate, arrival: Column) -> Column:
    """The name of the event's defect: the rates laid end to end, and where the draw falls."""
    draw, name, edge = F.col("draw"), F.lit(None).cast("string"), 0.0
    edges = []
    for defect, rate in _rates(settings):
        edge += rate
        edges.append((defect, edge))
    for defect, edge in reversed(edges):
        # What would arrive after the last day is not late but still missing: it stays on time.
        found = F.lit(defect)
        if defect == LATE:
            found = F.when(arrival < settings.days, found)
        name = F.when(draw < edge, found).otherwise(name)
    return name


def _rates(settings: Generate) -> list[tuple[str, float]]:
    s = settings
    broken = [(kind, s.malformed_rate / len(MALFORMED)) for kind in MALFORMED]
    return [
        (EXACT, s.exact_duplicate_rate),
        (NEAR, s.near_duplicate_rate),
        (LATE, s.late_rate),
        *broken,
        (UNKNOWN, s.unknown_type_rate),
        (BAD_RATING, s.bad_rating_rate),
        (SKEW, s.clock_skew_rate),
    ]
