"""Gold tables on a lake: no leak, pinned files, ratings and item statistics by day."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import pyarrow.parquet as pq
import pytest

from recsys import schemas
from recsys.errors import LakeError
from recsys.lake.gold import build_gold
from recsys.lake.pinning import pin_training_table
from recsys.lake.popularity import read_popularity
from recsys.lake.tables import Lake
from tests.spark.gold_events import NIGHT, SMALL, Event

pytestmark = pytest.mark.spark


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
    counts = build_gold(lake, NIGHT).counts
    assert counts.events == len(BEFORE)
    assert counts.holdout_users == 0


def test_no_events_up_to_the_night_is_an_error(lake: Lake) -> None:
    write_silver(lake, BEFORE)
    with pytest.raises(LakeError, match="no events up to 2020-01-01"):
        build_gold(lake, date(2020, 1, 1))


def test_a_night_whose_own_events_have_no_index_is_an_error_and_not_done(lake: Lake) -> None:
    write_silver(lake, BEFORE, items=0)
    with pytest.raises(LakeError, match=r"no event up to .* is of a known user and item"):
        build_gold(lake, NIGHT)
    assert not lake.exists(schemas.GOLD_SEQUENCES)


def test_a_night_whose_events_a_later_one_has_read_writes_nothing(lake: Lake) -> None:
    write_silver(lake, BEFORE)
    found = build_gold(lake, NIGHT - timedelta(days=1))
    assert (found.caught_up_by, found.written, found.counts.events) == (NIGHT, {}, 0)
    assert not lake.exists(schemas.GOLD_SEQUENCES)


def test_pinned_files_are_one_row_group_with_true_counts_in_an_order_set_by_content(
    lake: Lake,
) -> None:
    write_silver(lake, BEFORE)
    counts = build_gold(lake, NIGHT).counts
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
    for file, (_, _, users, numbers) in zip(again.files, contents, strict=True):
        table = pq.ParquetFile(file.url.removeprefix("file://")).read().to_pydict()
        assert (table["user_idx"], table["window"]) == (users, numbers)
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


def test_ratings_keep_the_latest_and_item_stats_count_by_day(lake: Lake) -> None:
    day = 86_400
    events = [
        Event(1, 1, -10, 5), Event(1, 1, -20, 5), Event(1, 2, -5, 5), Event(1, 2, -5, 1),
        Event(2, 1, -10 - day, 5), Event(2, 1, -11, 1), Event(2, 1, -12, 1), Event(3, 2, 10, 1),
    ]  # fmt: skip
    write_silver(lake, events, {0: 2.0, 1: 5.0, 2: 3.5, 4: 1.0})
    build_gold(lake, NIGHT)
    ratings = lake.read(schemas.GOLD_RATINGS).select("user_idx", "item_idx", "rating").collect()
    assert sorted(map(tuple, ratings)) == [(1, 1, 2.0), (1, 2, 3.5), (2, 1, 1.0)]
    eve, before = date(2026, 3, 4), date(2026, 3, 3)
    assert sorted(map(tuple, lake.read(schemas.GOLD_ITEM_STATS).collect())) == [
        (1, before, 1, 1), (1, eve, 4, 2), (2, eve, 2, 1), (2, NIGHT, 1, 1),
    ]  # fmt: skip
    popularity = read_popularity(lake, lake.version(schemas.GOLD_ITEM_STATS), 3, NIGHT, 1)
    assert popularity.ever.tolist() == [0, 3, 2, 0]
    assert popularity.recent.tolist() == [0, 0.75, 1.5, 0]
