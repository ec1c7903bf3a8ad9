"""Gold: sequences, windows and hold-out as computed by hand and by a plain model; no leak."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession

from recsys import schemas
from recsys.config import Gold, load_settings
from recsys.errors import LakeError
from recsys.lake import sequences
from recsys.lake.gold import build_gold, holdout_cutoff, pin_training_table
from recsys.lake.popularity import read_popularity
from recsys.lake.tables import Lake

pytestmark = pytest.mark.spark

NIGHT = date(2026, 3, 5)
CUTOFF = datetime(2026, 3, 5, tzinfo=UTC)
MICRO = timedelta(microseconds=1)
SMALL = ("gold.sequence_length=4", "gold.length_buckets=[2, 4]", "gold.max_windows_per_user=3")


class Event(NamedTuple):
    """One event of a user; ``at`` is in seconds after the cutoff (before it: negative)."""

    user: int
    item: int
    at: float
    code: int = 1

    @property
    def moment(self) -> datetime:
        return CUTOFF + round(self.at * 1_000_000) * MICRO


def small_gold(*overrides: str) -> Gold:
    return load_settings(None, [*SMALL, *overrides]).gold


def to_frame(spark: SparkSession, events: Iterable[Event]) -> DataFrame:
    rows = [(e.user, f"u{e.user}", e.item, e.code, e.moment) for e in events]
    return spark.createDataFrame(
        rows, "user_idx int, user_id string, item_idx int, code int, event_ts timestamp"
    )


def histories_of(events: DataFrame) -> DataFrame:
    users = events.select("user_id", "user_idx").distinct()
    return sequences.build_histories(events.drop("user_idx"), users, CUTOFF)


def by_user(frame: DataFrame, *keys: str) -> dict[Any, dict[str, Any]]:
    rows = [row.asDict() for row in frame.collect()]
    return {tuple(r[k] for k in keys) if len(keys) > 1 else r[keys[0]]: r for r in rows}


# What happened, hand-computed below. User 1: runs, a tie, more than a window holds. User 2: few
# events. User 3: one event before the cutoff. User 4: only after it.
BY_HAND = [
    *[Event(1, item, -900 + n, code) for n, (item, code) in enumerate(
        [(5, 1), (5, 4), (6, 1), (7, 1), (5, 1), (8, 2), (9, 1), (3, 1), (4, 1), (2, 1)])],
    Event(1, 6, 0), Event(1, 11, 1), Event(1, 10, 1),
    Event(2, 1, -3), Event(2, 2, -2.5),
    Event(3, 1, -1), Event(3, 1, 5, 4),
    Event(4, 2, 0.000001),
]  # fmt: skip


@pytest.fixture(scope="module")
def histories(spark: SparkSession) -> DataFrame:
    return histories_of(to_frame(spark, BY_HAND)).persist()


def test_sequences_hold_the_last_events_oldest_first_without_runs(histories: DataFrame) -> None:
    rows = by_user(sequences.build_sequences(histories, small_gold()), "user_idx")
    one = rows[1]
    assert one["items"] == [2, 6, 10, 11]  # the tie of 10 and 11 goes by item
    base = int(CUTOFF.timestamp())
    assert one["event_times"] == [base - 891, base, base + 1, base + 1]
    assert one["length"] == 12  # 13 events, of which a run of two
    assert one["seen_items"] == list(range(2, 12))
    assert (one["user_id"], one["bucket"]) == ("u1", 4)
    assert (rows[2]["items"], rows[2]["bucket"]) == ([1, 2], 2)
    assert rows[2]["event_times"] == [base - 3, base - 3]  # whole seconds, rounded down
    assert (rows[3]["items"], rows[3]["event_types"], rows[3]["length"]) == ([1], [4], 1)


def test_windows_are_cut_from_the_end_padded_in_front_and_share_one_event(
    histories: DataFrame,
) -> None:
    windows = sequences.build_training_windows(histories, small_gold(), CUTOFF)
    rows = by_user(windows, "user_idx", "window")
    # Before the cutoff: 5 (its run's last, a purchase), 6, 7, 5, 8, 9, 3, 4, 2.
    assert rows[1, 0]["items"] == [8, 9, 3, 4, 2]
    assert rows[1, 1]["items"] == [5, 6, 7, 5, 8]
    assert rows[1, 1]["event_types"] == [4, 1, 1, 1, 2]
    assert rows[2, 0]["items"] == [0, 1, 2]
    assert rows[2, 0]["event_types"] == [0, 1, 1]
    assert rows[2, 0]["event_times"][0] == 0
    assert (rows[2, 0]["length"], rows[2, 0]["bucket"]) == (2, 3)
    assert sorted(rows) == [(1, 0), (1, 1), (2, 0)]  # user 3 has no transition before the cutoff


def test_windows_are_counted_without_making_them(histories: DataFrame) -> None:
    for gold in (small_gold(), small_gold("gold.max_windows_per_user=1")):
        counted = histories.agg(sequences.count_windows(gold, CUTOFF)).collect()[0][0]
        assert counted == sequences.build_training_windows(histories, gold, CUTOFF).count() > 0


def test_holdout_has_what_was_known_before_and_what_is_new_after(histories: DataFrame) -> None:
    rows = by_user(sequences.build_holdout(histories, small_gold(), CUTOFF), "user_idx")
    assert sorted(rows) == [1, 4]  # user 3 comes back to the same item
    assert rows[1]["items"] == [9, 3, 4, 2]
    assert rows[1]["length"] == 9
    assert rows[1]["seen_items"] == [2, 3, 4, 5, 6, 7, 8, 9]
    assert rows[1]["targets"] == [10, 11]
    assert (rows[4]["items"], rows[4]["length"], rows[4]["targets"]) == ([], 0, [2])


def test_cutoff_is_the_first_held_out_moment() -> None:
    assert holdout_cutoff(small_gold(), NIGHT) == CUTOFF
    assert holdout_cutoff(small_gold("gold.holdout_days=3"), NIGHT) == CUTOFF - timedelta(days=2)


# The same in plain Python, one user at a time.
def drop_runs(events: list[Event]) -> list[Event]:
    return [e for n, e in enumerate(events) if n + 1 == len(events) or events[n + 1].item != e.item]


def plain(events: list[Event], gold: Gold) -> tuple[Any, list[Any], Any]:
    """(sequence, windows newest first, hold-out) of one user."""
    ordered = sorted(events, key=lambda e: (e.moment, e.item, e.code))
    whole, length = drop_runs(ordered), gold.sequence_length
    before = drop_runs([e for e in ordered if e.at < 0])
    seen = {e.item for e in before}
    targets = sorted({e.item for e in ordered if e.at >= 0} - seen)
    bucket = min(b for b in gold.length_buckets if b >= min(len(whole), length))
    sequence = (
        [e.item for e in whole][-length:],
        len(whole),
        sorted({e.item for e in ordered}),
        bucket,
    )
    windows: list[Any] = []
    end = len(before)
    while end >= 2 and len(windows) < gold.max_windows_per_user:
        cut = before[max(0, end - length - 1) : end]
        size = 1 + min(b for b in gold.length_buckets if b >= len(cut) - 1)
        pad = [0] * (size - len(cut))
        windows.append((pad + [e.item for e in cut], pad + [e.code for e in cut], len(cut), size))
        end -= length
    holdout = ([e.item for e in before][-length:], len(before), sorted(seen), targets)
    return sequence, windows, holdout if targets else None


histories_of_users = st.lists(
    st.lists(
        st.tuples(
            st.integers(1, 4),
            st.one_of(st.integers(-5, 5), st.sampled_from([-0.000001, 0.000001])),
            st.integers(1, 3),
        ),
        min_size=1,
        max_size=30,
        unique_by=lambda event: event,
    ),
    min_size=20,
    max_size=40,
)


@settings(
    max_examples=2, deadline=None, database=None, derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(users=histories_of_users)
def test_any_history_gives_what_the_plain_model_gives(
    spark: SparkSession, users: list[list[tuple[int, float, int]]]
) -> None:
    gold = small_gold()
    logs = {
        user: [Event(user, item, at, code) for item, at, code in log]
        for user, log in enumerate(users, 1)
    }
    frame = to_frame(spark, [event for log in logs.values() for event in log])
    built = histories_of(frame).persist()
    found = by_user(sequences.build_sequences(built, gold), "user_idx")
    windows = by_user(sequences.build_training_windows(built, gold, CUTOFF), "user_idx", "window")
    holdout = by_user(sequences.build_holdout(built, gold, CUTOFF), "user_idx")
    built.unpersist()
    for user, log in logs.items():
        sequence, cuts, held = plain(log, gold)
        row = found[user]
        assert (row["items"], row["length"], row["seen_items"], row["bucket"]) == sequence
        mine = [windows.pop((user, n)) for n in range(len(cuts))]
        assert [(w["items"], w["event_types"], w["length"], w["bucket"]) for w in mine] == cuts
        got = holdout.pop(user, None)
        names = ("items", "length", "seen_items", "targets")
        assert (got and tuple(got[name] for name in names)) == held
    assert (windows, holdout) == ({}, {})


def test_every_transition_before_the_cutoff_is_a_target_exactly_once(spark: SparkSession) -> None:
    gold = small_gold("gold.max_windows_per_user=100")
    events = [Event(user, 1 + n, n - 1000) for user in range(1, 24) for n in range(user)]
    built = histories_of(to_frame(spark, events))
    rows = sequences.build_training_windows(built, gold, CUTOFF).collect()
    found = sorted(
        (row["user_idx"], one, two)
        for row in rows
        for one, two in zip(row["items"][:-1], row["items"][1:], strict=True)
        if one
    )
    assert found == [(user, n, n + 1) for user in range(1, 24) for n in range(1, user)]


# From here on with a lake: silver is written by hand, gold is built.
KINDS = {code: kind for kind, code in schemas.EVENT_TYPE_CODES.items()}


def write_silver(
    lake: Lake, events: list[Event], ratings: dict[int, float] | None = None, users: int = 40,
    items: int = 40, night: date = NIGHT,
) -> None:  # fmt: skip
    """silver/*, where user 3 is `u3` and item 7 is `i7`; ``ratings``: place in events to value."""
    rows = []
    for n, e in enumerate(events):
        ids = (f"e{n}", f"u{e.user}", f"i{e.item}")
        figures = ((ratings or {}).get(n), None, e.moment, e.moment.date(), night)
        rows.append((*ids, KINDS[e.code], *figures))
    spark = lake.spark
    lake.replace(schemas.SILVER_EVENTS, spark.createDataFrame(rows, schemas.SILVER_EVENTS.ddl))
    if not lake.exists(schemas.SILVER_USERS):
        people = [(f"u{n}", n, night, night) for n in range(1, users + 1)]
        lake.replace(schemas.SILVER_USERS, spark.createDataFrame(people, schemas.SILVER_USERS.ddl))
        things = [(f"i{n}", n, night, None, None) for n in range(1, items + 1)]
        lake.replace(schemas.SILVER_ITEMS, spark.createDataFrame(things, schemas.SILVER_ITEMS.ddl))


def rows_of(lake: Lake, table: schemas.Table, *columns: str) -> list[Any]:
    names = columns or tuple(table.names)
    return sorted(map(repr, lake.read(table).select(*names).collect()))


BEFORE = [Event(u, 1 + (u * n) % 13, -90_000 * n - u) for u in range(1, 21) for n in range(1, 9)]


@pytest.fixture
def lake(make_lake: Callable[..., Lake]) -> Lake:
    return make_lake(*SMALL, "gold.min_row_groups=6", "gold.rows_per_row_group=5")


def test_nothing_before_the_cutoff_depends_on_what_comes_after(lake: Lake) -> None:
    """The leak test: events of the held-out day change no input of training or evaluation."""
    last = {u: min((e for e in BEFORE if e.user == u), key=lambda e: -e.at) for u in range(1, 21)}
    targets = [Event(u, 30, 100) for u in range(1, 21)]  # all are held out both times
    planted = [Event(u, last[u].item, 0) for u in range(1, 11)]  # goes on with the last item
    planted += [Event(u, 1, 50, 5) for u in range(11, 21)] + [Event(25, 31, 7), Event(25, 32, 8)]
    known = {}
    for name, events in (("without", BEFORE + targets), ("with", BEFORE + targets + planted)):
        write_silver(lake, events)
        build_gold(lake, NIGHT)
        stats = lake.version(schemas.GOLD_ITEM_STATS)
        popularity = read_popularity(lake, stats, 40, NIGHT - timedelta(days=1), 3)
        holdout = lake.read(schemas.GOLD_HOLDOUT).where("user_idx <= 20")
        names = ("user_idx", "items", "length", "seen_items")
        known[name] = (
            rows_of(lake, schemas.GOLD_TRAINING_SEQUENCES),
            sorted(map(repr, holdout.select(*names).collect())),
            popularity.ever.tolist(),
            popularity.recent.tolist(),
        )
    assert len(known["with"][1]) == 20
    for with_future, without in zip(known["with"], known["without"], strict=True):
        assert with_future == without


def test_events_after_the_night_or_from_later_nights_do_not_count(lake: Lake) -> None:
    write_silver(lake, [*BEFORE, Event(1, 30, 86_400), Event(2, 31, 10)])
    later = lake.read(schemas.SILVER_EVENTS).where("item_id = 'i31'")
    assert later.count() == 1
    lake.replace(
        schemas.SILVER_EVENTS,
        lake.read(schemas.SILVER_EVENTS).selectExpr(
            *[n for n in schemas.SILVER_EVENTS.names if n != "ingest_date"],
            "if(item_id = 'i31', date'2026-03-06', ingest_date) as ingest_date",
        ),
    )
    counts = build_gold(lake, NIGHT)
    assert counts.events == len(BEFORE)
    assert counts.holdout_users == 0


def test_no_events_up_to_the_night_is_an_error(lake: Lake) -> None:
    write_silver(lake, BEFORE)
    with pytest.raises(LakeError, match="no events up to 2020-01-01"):
        build_gold(lake, date(2020, 1, 1))


def test_pinned_files_are_one_row_group_with_true_counts_in_an_order_set_by_content(
    lake: Lake,
) -> None:
    write_silver(lake, BEFORE)
    counts = build_gold(lake, NIGHT)
    first = pin_training_table(lake)
    assert first.version == lake.version(schemas.GOLD_TRAINING_SEQUENCES)
    contents = []
    for file in first.files:
        found = pq.ParquetFile(file.url.removeprefix("file://"))
        assert found.metadata.num_row_groups == 1
        assert found.metadata.num_rows == file.rows <= 5
        table = found.read().to_pydict()
        assert {len(items) for items in table["items"]} == {file.bucket}
        contents.append((file.split, file.bucket, table["user_idx"], table["window"]))
        assert f"split={file.split}/bucket={file.bucket}/" in file.url
    assert sum(file.rows for file in first.files) == counts.training_windows
    assert len(first.files) >= 6
    build_gold(lake, NIGHT)
    again = pin_training_table(lake)
    assert again.version > first.version
    assert {file.url for file in again.files}.isdisjoint({file.url for file in first.files})
    names = [(f.split, f.bucket, f.rows) for f in first.files]
    assert [(f.split, f.bucket, f.rows) for f in again.files] == names
    for file, (_, _, users, windows) in zip(again.files, contents, strict=True):
        table = pq.ParquetFile(file.url.removeprefix("file://")).read().to_pydict()
        assert (table["user_idx"], table["window"]) == (users, windows)
    assert pin_training_table(lake, first.version) == first


def test_pinning_a_missing_or_empty_table_says_what_to_do(lake: Lake) -> None:
    with pytest.raises(LakeError) as caught:
        pin_training_table(lake)
    assert caught.value.do == "run build_gold first"
    write_silver(lake, [Event(1, 1, -5), Event(2, 1, 5)])
    build_gold(lake, NIGHT)
    with pytest.raises(LakeError) as caught:
        pin_training_table(lake)
    assert "at least two events before the hold-out" in caught.value.do


def test_validation_users_are_a_fixed_share_and_never_in_both_splits(spark: SparkSession) -> None:
    gold = small_gold("gold.validation_share=0.2")
    events = [Event(user, n, -n) for user in range(1, 501) for n in (1, 2, 3, 4, 5, 6)]
    built = histories_of(to_frame(spark, events))
    rows = sequences.build_training_windows(built, gold, CUTOFF).select("user_idx", "split")
    splits: dict[int, set[str]] = {}
    for user, split in rows.collect():
        splits.setdefault(user, set()).add(split)
    assert {len(found) for found in splits.values()} == {1}
    assert 0.14 < sum("validation" in found for found in splits.values()) / 500 < 0.26


def test_ratings_keep_the_latest_and_item_stats_count_by_day(lake: Lake) -> None:
    day = 86_400
    events = [
        Event(1, 1, -10, 5), Event(1, 1, -20, 5), Event(1, 2, -5, 5), Event(1, 2, -5, 1),
        Event(2, 1, -10 - day, 5), Event(2, 1, -11, 1), Event(2, 1, -12, 1), Event(3, 2, 10, 1),
    ]  # fmt: skip
    write_silver(lake, events, {0: 2.0, 1: 5.0, 2: 3.5, 4: 1.0})
    counts = build_gold(lake, NIGHT)
    ratings = lake.read(schemas.GOLD_RATINGS).select("user_idx", "item_idx", "rating").collect()
    assert sorted(map(tuple, ratings)) == [(1, 1, 2.0), (1, 2, 3.5), (2, 1, 1.0)]
    assert counts.ratings == 3
    eve, before = date(2026, 3, 4), date(2026, 3, 3)
    assert sorted(map(tuple, lake.read(schemas.GOLD_ITEM_STATS).collect())) == [
        (1, before, 1, 1, before), (1, eve, 4, 2, before),
        (2, eve, 2, 1, eve), (2, NIGHT, 1, 1, eve),
    ]  # fmt: skip
    popularity = read_popularity(lake, lake.version(schemas.GOLD_ITEM_STATS), 3, NIGHT, 1)
    assert popularity.ever.tolist() == [0, 3, 2, 0]
    assert popularity.recent.tolist() == [0, 0.75, 1.5, 0]
