"""Sequences, windows and hold-out as computed by hand and by a plain model."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession

from recsys.config import Gold
from recsys.lake import sequences, windows
from recsys.lake.sequences import Horizon, holdout_cutoff
from recsys.train.batch import make_batch
from recsys.train.rows import Channels
from tests.spark.gold_events import CUTOFF, NIGHT, Event, by_user, small_gold

pytestmark = pytest.mark.spark


def horizon_of(late_days: int = 1) -> Horizon:
    return Horizon.of(small_gold(), late_days, NIGHT)


def to_frame(spark: SparkSession, events: Iterable[Event]) -> DataFrame:
    rows = [(e.user, f"u{e.user}", e.item, e.code, e.moment) for e in events]
    return spark.createDataFrame(
        rows, "user_idx int, user_id string, item_idx int, code int, event_ts timestamp"
    )


def merge(events: DataFrame, late_days: int = 1) -> DataFrame:
    """The states of all users after their first night."""
    users = events.select("user_id", "user_idx").distinct()
    horizon = horizon_of(late_days)
    return sequences.merge_events(None, events.drop("user_idx"), users, small_gold(), horizon)


def all_windows(merged: DataFrame, gold: Gold, late_days: int = 1) -> DataFrame:
    horizon = horizon_of(late_days)
    settled = windows.settled_windows(merged, gold, horizon)
    return settled.unionByName(windows.open_windows(merged, gold, horizon))


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
def merged(spark: SparkSession) -> DataFrame:
    return merge(to_frame(spark, BY_HAND)).persist()


def test_sequences_hold_the_last_events_oldest_first_without_runs(merged: DataFrame) -> None:
    rows = by_user(sequences.build_sequences(merged, small_gold()), "user_idx")
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


def test_windows_are_counted_from_the_first_event_and_the_newest_has_context(
    merged: DataFrame,
) -> None:
    rows = by_user(all_windows(merged, small_gold()), "user_idx", "window")
    # Before the cutoff: 5 (its run's last, a purchase), 6, 7, 5, 8, 9, 3, 4, 2.
    assert sorted(rows) == [(1, 0), (1, 1), (2, 0)]  # user 3 has no transition before the cutoff
    assert rows[1, 0]["items"] == [5, 6, 7, 5, 8]
    assert rows[1, 0]["event_types"] == [4, 1, 1, 1, 2]
    assert (rows[1, 0]["context"], rows[1, 0]["open"]) == (0, False)
    assert rows[1, 0]["settled_on"] == NIGHT  # eve's events settle at the end of the night
    assert (rows[1, 1]["items"], rows[1, 1]["context"]) == ([8, 9, 3, 4, 2], 1)
    assert rows[1, 1]["open"]  # its last event may yet turn out to be in the middle of a run
    assert rows[2, 0]["items"] == [0, 1, 2]
    assert rows[2, 0]["event_types"] == [0, 1, 1]
    assert rows[2, 0]["event_times"][0] == 0
    assert (rows[2, 0]["length"], rows[2, 0]["bucket"]) == (2, 3)


def test_the_newest_window_is_filled_up_with_older_events(spark: SparkSession) -> None:
    built = merge(to_frame(spark, [Event(1, n, n - 100) for n in range(1, 8)]))
    rows = by_user(all_windows(built, small_gold()), "window")
    assert rows[0]["items"] == [1, 2, 3, 4, 5]
    assert (rows[1]["items"], rows[1]["context"]) == ([3, 4, 5, 6, 7], 3)


def test_holdout_has_what_was_known_before_and_what_is_new_after(merged: DataFrame) -> None:
    rows = by_user(sequences.build_holdout(merged, small_gold(), horizon_of()), "user_idx")
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


def plain(events: list[Event], gold: Gold, days: int) -> tuple[Any, list[Any], Any]:
    """(sequence, windows oldest first, hold-out) of one user; events of the last days are open."""
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
    settled = [e for e in ordered if e.at < 86_400 * (1 - days)]
    starts = [e for n, e in enumerate(settled) if not n or settled[n - 1].item != e.item]
    final = max(0, (len(starts) - 2) // length)
    found: list[Any] = []
    while len(found) * length + 1 < len(before):
        number = len(found)
        first, end = number * length, min((number + 1) * length, len(before) - 1)
        start, day = max(0, end - length), None
        if number < final:
            day = (starts[end + 1].moment + timedelta(days=days)).date()
        cut = before[start : end + 1]
        size = 1 + min(b for b in gold.length_buckets if b >= len(cut) - 1)
        pad = [0] * (size - len(cut))
        arrays = (pad + [e.item for e in cut], pad + [e.code for e in cut])
        found.append((*arrays, len(cut), size, first - start + 1 if number else 0, day))
    holdout = ([e.item for e in before][-length:], len(before), sorted(seen), targets)
    return sequence, found, holdout if targets else None


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
    for late_days in (1, 2):
        _compare(to_frame(spark, [e for log in logs.values() for e in log]), logs, gold, late_days)


def _compare(frame: DataFrame, logs: dict[int, list[Event]], gold: Gold, late_days: int) -> None:
    built = merge(frame, late_days).persist()
    found = by_user(sequences.build_sequences(built, gold), "user_idx")
    cut = by_user(all_windows(built, gold, late_days), "user_idx", "window")
    holdout = by_user(sequences.build_holdout(built, gold, horizon_of(late_days)), "user_idx")
    built.unpersist()
    for user, log in logs.items():
        sequence, cuts, held = plain(log, gold, late_days)
        row = found[user]
        assert (row["items"], row["length"], row["seen_items"], row["bucket"]) == sequence
        mine = [cut.pop((user, n)) for n in range(len(cuts))]
        names = ("items", "event_types", "length", "bucket", "context", "settled_on")
        assert [tuple(w[name] for name in names) for w in mine] == cuts
        got = holdout.pop(user, None)
        names = ("items", "length", "seen_items", "targets")
        assert (got and tuple(got[name] for name in names)) == held
    assert (cut, holdout) == ({}, {})


def test_every_transition_before_the_cutoff_is_a_target_exactly_once(spark: SparkSession) -> None:
    events = [Event(user, 1 + n, n - 1000) for user in range(1, 24) for n in range(user)]
    rows = all_windows(merge(to_frame(spark, events)), small_gold()).collect()
    found = []
    for row in rows:
        batch = make_batch(
            Channels().pack({"items": np.array([row["items"]])}, np.array([row["context"]])), None
        )
        targets, _ = batch.choose_targets(1)
        inputs = batch.items[:, :-1].flatten()[batch.positions]
        found += [
            (row["user_idx"], *pair) for pair in zip(inputs.tolist(), targets.tolist(), strict=True)
        ]
    assert sorted(found) == [(user, n, n + 1) for user in range(1, 24) for n in range(1, user)]


def test_validation_users_are_a_fixed_share_and_never_in_both_splits(spark: SparkSession) -> None:
    gold = small_gold("gold.validation_share=0.2")
    events = [Event(user, n, -n) for user in range(1, 501) for n in (1, 2, 3, 4, 5, 6)]
    rows = all_windows(merge(to_frame(spark, events)), gold).select("user_idx", "split")
    splits: dict[int, set[str]] = {}
    for user, split in rows.collect():
        splits.setdefault(user, set()).add(split)
    assert {len(found) for found in splits.values()} == {1}
    assert 0.14 < sum("validation" in found for found in splits.values()) / 500 < 0.26
