"""Windows with ratings: which events have one, and that none is of the hold-out."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from recsys import schemas
from recsys.errors import LakeError
from recsys.lake.gold import build_gold
from recsys.lake.labelled_windows import write_rated_windows
from recsys.lake.pinning import pin_training_table
from recsys.lake.tables import Lake
from tests.spark.gold_events import NIGHT, SMALL, Event
from tests.spark.test_gold import write_silver

pytestmark = pytest.mark.spark

TABLES = (schemas.GOLD_TRAINING_SEQUENCES, schemas.GOLD_RATINGS)


def test_ratings_before_the_hold_out_label_their_events(make_lake: Callable[..., Lake]) -> None:
    lake = make_lake(*SMALL, "gold.min_row_groups=1")
    events = [
        Event(1, 1, -500), Event(1, 1, -490.25, 5), Event(1, 2, -400), Event(1, 3, -300, 5),
        Event(1, 4, -200, 5), Event(1, 4, -190), Event(1, 5, -100.75, 5), Event(1, 6, -50),
        Event(2, 1, -90), Event(2, 2, -80),
        # The hold-out: of the first user, of one who rates nothing before, of an item seen before.
        Event(1, 7, 10, 5), Event(2, 2, 20, 5), Event(1, 6, 30, 5),
    ]  # fmt: skip
    ratings = {1: 4.0, 3: 2.0, 4: 1.0, 6: 5.0, 10: 3.0, 11: 3.0, 12: 3.0}
    write_silver(lake, events, ratings)
    build_gold(lake, NIGHT)
    versions = {table.name: lake.version(table) for table in TABLES}
    commit = write_rated_windows(lake, versions, NIGHT)
    rows = lake.read(schemas.GOLD_TRAINING_EXAMPLES, commit.version).collect()
    found = {
        (row["user_idx"], item, stars)
        for row in rows
        for item, stars in zip(row["items"], row["labels"], strict=True)
        if not math.isnan(stars)
    }
    # Item 4 was viewed again at once, and a run of one item is known by its last event.
    assert found == {(1, 1, 4.0), (1, 3, 2.0), (1, 5, 5.0)}
    windows = lake.read(schemas.GOLD_TRAINING_SEQUENCES)
    names = [name for name in schemas.GOLD_TRAINING_EXAMPLES.names if name != schemas.LABELS]
    own = lake.read(schemas.GOLD_TRAINING_EXAMPLES).select(*names)
    assert sorted(map(repr, own.collect())) == sorted(map(repr, windows.select(*names).collect()))
    pinned = pin_training_table(lake, commit.version, schemas.GOLD_TRAINING_EXAMPLES)
    assert sum(file.rows for file in pinned.files) == len(rows)


def test_a_log_without_ratings_says_so(make_lake: Callable[..., Lake]) -> None:
    lake = make_lake(*SMALL)
    write_silver(lake, [Event(1, n, -100 + n) for n in range(1, 5)])
    build_gold(lake, NIGHT)
    versions = {table.name: lake.version(table) for table in TABLES}
    with pytest.raises(LakeError, match="no rating before the hold-out"):
        write_rated_windows(lake, versions, NIGHT)
