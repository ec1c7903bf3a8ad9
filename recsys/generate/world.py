"""The catalogue and the people, in closed form: no table is needed to look anything up.

Items are numbered category by category, so a category is a range of numbers. The order within the
range is the category's *trail*, the order in which people discover its items (volumes of a series,
lessons of a course). Popularity is another order of the same items, unrelated to the trail.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import accumulate, pairwise

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys.config import Generate
from recsys.generate import dice, words

USER, BOT, JOIN_DAY, SESSIONS = "user", "bot", "join_day", "sessions"

# People: how active they are, when they come, what they like.
_ACTIVITY_EXPONENT = 1.3  # of the power law; smaller is more unequal
_ACTIVITY_MOST = 100.0  # times the least active user
_BOT_ACTIVITY = 30.0  # a bot's events, in those of a mean user
_JOINED_BEFORE = 0.7  # share of users that are there from the first day
TASTES = 4
SEGMENTS = 8
_STABLE_TASTES = 2  # the others are drawn anew every taste_days
_CATEGORY_EXPONENT = 0.85  # of the categories' popularity
# Items: when they come.
_BORN_BEFORE = 0.85  # share of items that are there from the first day
BOT_SESSION_VIEWS = 200


@dataclass(frozen=True)
class World:
    """What follows from the settings: category ranges and the numbers behind the orders."""

    settings: Generate
    start: date
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    steps: tuple[int, ...]
    id_step: int

    def seed_key(self, *parts: Column) -> Column:
        """A key that depends on the seed."""
        return dice.key(F.lit(self.settings.seed), *parts)

    def offset_of(self, category: Column) -> Column:
        """Number of the first item of a category: the beginning of its trail."""
        return lookup(self.offsets, category)

    def size_of(self, category: Column) -> Column:
        """Number of items of a category."""
        return lookup(self.sizes, category)

    def step_of(self, category: Column) -> Column:
        """Distance on the trail between popularity ranks: rank r is at ``(r + 1) * step``.

        It has no common factor with the size, so every item has one rank.
        """
        return lookup(self.steps, category)

    def item_id(self, item: Column) -> Column:
        """The id in the log; its number says nothing about category or trail."""
        n = self.settings.items
        return _padded("i", F.pmod(item * self.id_step + self.id_step // 3, F.lit(n)), n, 6)

    def user_id(self, user: Column) -> Column:
        """The id in the log."""
        return _padded("u", user, self.settings.users, 7)

    def birth_day(self, item: Column) -> Column:
        """Day the item appears: 0 is the first day of the log, negative is before it."""
        draw = dice.uniform(self.seed_key(F.lit(1), item), "birth")
        before = -1 - F.floor(draw * (365 / _BORN_BEFORE))
        later = F.floor((draw - _BORN_BEFORE) * ((self.settings.days - 1) / (1 - _BORN_BEFORE)))
        return F.when(draw < _BORN_BEFORE, before).otherwise(1 + later)

    def price_cents(self, item: Column) -> Column:
        """Price in hundredths of the currency: log-normal-like, between about 1 and 400."""
        of = self.seed_key(F.lit(2), item)
        return F.round(F.exp(3.0 + 1.6 * dice.triangle(of, "price")) * 100).cast("long")

    def quality(self, item: Column) -> Column:
        """How much people like the item beyond their taste: about -1 to 1 rating points."""
        return dice.triangle(self.seed_key(F.lit(3), item), "quality")

    def taste(self, user: Column, slot: Column, day: Column) -> Column:
        """Category in one of the user's ``TASTES`` slots on a day; the later slots drift."""
        of = self.seed_key(F.lit(4), user)
        days = self.settings.taste_days
        period = F.floor((day + dice.below(of, "phase", days)) / days)
        drawn = F.when(slot >= _STABLE_TASTES, period).otherwise(F.lit(0))
        pick = self.seed_key(F.lit(5), user, slot, drawn)
        return dice.zipf(pick, "category", len(self.sizes), _CATEGORY_EXPONENT)

    def segment(self, user: Column) -> Column:
        """A group of users whose first taste is one of the same few categories: s0, s1, …"""
        first = self.taste(user, F.lit(0), F.lit(0))
        of = self.seed_key(F.lit(8), first)
        return F.concat(F.lit("s"), dice.below(of, "segment", SEGMENTS).cast("string"))

    def born_share(self) -> float:
        """Mean share of the items that exist on a day."""
        return _BORN_BEFORE + (1 - _BORN_BEFORE) * 0.5


def build_world(settings: Generate, end_date: date) -> World:
    """Lay out the categories; their sizes differ by up to a factor of three."""
    draw = random.Random(settings.seed)
    n = min(settings.categories, settings.items)
    weights = [0.5 + draw.random() for _ in range(n)]
    spare = settings.items - n
    sums = list(accumulate(weights, initial=0.0))
    edges = [round(spare * part / sums[-1]) + i for i, part in enumerate(sums)]
    sizes = [end - begin for begin, end in pairwise(edges)]
    return World(
        settings=settings,
        start=end_date - timedelta(days=settings.days - 1),
        offsets=tuple(edges[:-1]),
        sizes=tuple(sizes),
        steps=tuple(coprime_near(size, 0.618) for size in sizes),
        id_step=coprime_near(settings.items, 0.382),
    )


def coprime_near(n: int, share: float) -> int:
    """The first number from ``share * n`` on that has no common factor with ``n``."""
    step = max(1, int(n * share))
    while math.gcd(step, n) != 1:
        step += 1
    return step


def list_users(spark: SparkSession, world: World, events_per_step: float) -> DataFrame:
    """Users with at least one session: user (number), bot, join_day, sessions (number of them)."""
    s = world.settings
    user = F.col(USER)
    of = world.seed_key(F.lit(6), user)
    bot = dice.chance(of, "bot", s.bot_user_rate)
    # Users join at times spread over the days; the sum of events must come out nevertheless.
    joined = dice.below(of, "join", s.days)
    join_day = F.when(dice.chance(of, "new", _JOINED_BEFORE), 0).otherwise(joined)
    presence = _JOINED_BEFORE + (1 - _JOINED_BEFORE) * (s.days + 1) / (2 * s.days)
    unit = s.events / s.users / (1 - s.bot_user_rate + s.bot_user_rate * _BOT_ACTIVITY)
    human = unit / (s.session_steps * events_per_step * world.born_share() * presence)
    weight = F.pow(
        1 - dice.uniform(of, "activity") * (1 - _ACTIVITY_MOST**-_ACTIVITY_EXPONENT),
        F.lit(-1 / _ACTIVITY_EXPONENT),
    )
    here = (s.days - F.col(JOIN_DAY)) / s.days
    visits = weight / _mean_activity() * human * here
    crawls = F.lit(unit * _BOT_ACTIVITY / (BOT_SESSION_VIEWS * world.born_share()))
    mean = F.when(F.col(BOT), crawls).otherwise(visits)
    tasks = max(spark.sparkContext.defaultParallelism, s.users // 100_000)
    return (
        spark.range(0, s.users, 1, tasks)
        .select(F.col("id").alias(USER))
        .select(USER, bot.alias(BOT), F.when(bot, 0).otherwise(join_day).alias(JOIN_DAY))
        .withColumn(SESSIONS, F.floor(mean + dice.uniform(of, "sessions")))
        .where(F.col(SESSIONS) > 0)
    )


def _mean_activity() -> float:
    a, most = _ACTIVITY_EXPONENT, _ACTIVITY_MOST
    return a / (a - 1) * (1 - most ** (1 - a)) / (1 - most**-a)


def list_items(spark: SparkSession, world: World) -> DataFrame:
    """The catalogue by item id: item, title, category, price, available_from (all strings)."""
    category, place, item = F.col("id"), F.col("place"), F.col("number")
    names = [_category_name(i) for i in range(len(world.offsets))]
    of = world.seed_key(F.lit(7), item)
    title = F.concat_ws(
        " ", _choose(words.ADJECTIVES, of, "adjective"), _choose(words.NOUNS, of, "noun"),
        lookup(names, category), F.lit("no."), (place + 1).cast("string"),
    )  # fmt: skip
    born = F.date_add(F.lit(world.start), world.birth_day(item).cast("int"))
    return (
        spark.range(0, len(world.offsets), 1, 1)
        .withColumn("place", F.explode(F.sequence(F.lit(0), world.size_of(category) - 1)))
        .withColumn("number", (world.offset_of(category) + place).cast("long"))
        .select(
            world.item_id(item).alias("item"),
            title.alias("title"),
            lookup(names, category).alias("category"),
            format_cents(world.price_cents(item)).alias("price"),
            born.cast("string").alias("available_from"),
        )
        .sortWithinPartitions("item")
    )


def list_segments(users: DataFrame, world: World) -> DataFrame:
    """What is known of users beside their events: user (id), segment."""
    user = F.col(USER)
    return users.select(world.user_id(user).alias("user"), world.segment(user).alias("segment"))


def format_cents(cents: Column) -> Column:
    """1250 as ``12.50``."""
    rest = format_digits(F.pmod(cents, F.lit(100)), 2)
    return F.concat(F.floor(cents / 100).cast("string"), F.lit("."), rest)


def format_digits(number: Column, width: int) -> Column:
    """7 as ``007``."""
    return F.substring((number + 10**width).cast("string"), 2, width)


def _category_name(number: int) -> str:
    name, round_ = words.CATEGORIES[number % len(words.CATEGORIES)], number // len(words.CATEGORIES)
    return f"{name} {round_ + 1}" if round_ else name


def _choose(options: tuple[str, ...], of: Column, what: str) -> Column:
    return lookup(options, dice.below(of, what, len(options)))


def lookup(values: tuple[int, ...] | tuple[str, ...] | list[str], at: Column) -> Column:
    """The value at a position from 0."""
    return F.element_at(F.array(*[F.lit(v) for v in values]), (at + 1).cast("int"))


def _padded(letter: str, number: Column, count: int, width: int) -> Column:
    digits = max(width, len(str(count - 1)))
    return F.concat(F.lit(letter), format_digits(number, digits))
