"""gold/item_links beside the same sums in Python."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from recsys import schemas
from recsys.benchmark import links as benchmark_links
from recsys.lake.gold import build_gold
from recsys.lake.item_links import (
    link_attributes,
    link_neighbors,
    pin_item_links,
    write_item_links,
)
from recsys.lake.tables import Lake
from tests.spark.gold_events import NIGHT, SMALL, Event
from tests.spark.test_gold import BEFORE, write_silver

pytestmark = pytest.mark.spark


def windows_of(spark: Any, rows: list[tuple[list[int], int]]) -> Any:
    """Windows padded to eight, from (items, context)."""
    padded = [([0] * (8 - len(i)) + i, len(i), context) for i, context in rows]
    return spark.createDataFrame(padded, "items array<int>, length int, context int")


def plain_links(
    rows: list[tuple[list[int], int]], apart: int, most: int
) -> dict[tuple[int, int], float]:
    counts: Counter[tuple[int, int]] = Counter()
    for items, context in rows:
        for later in range(max(context, 1), len(items)):
            for first in range(max(0, later - apart), later):
                if items[first] != items[later]:
                    counts[items[first], items[later]] += 1
                    counts[items[later], items[first]] += 1
    degrees: Counter[int] = Counter()
    for (item, _), count in counts.items():
        degrees[item] += count
    of_item: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for (item, other), count in counts.items():
        of_item[item].append((-np.float32(count / sqrt(degrees[item] * degrees[other])), other))
    return {
        (item, other): -weight
        for item, others in of_item.items()
        for weight, other in sorted(others)[:most]
    }


ROWS = [
    ([1, 2, 3, 2, 4], 0),
    ([5, 1, 2, 6, 6, 7, 1, 2], 1),
    ([2, 3, 8], 2),
    ([9], 0),
    ([9, 9], 1),
    ([4, 3, 10, 1], 3),
]


@pytest.mark.parametrize(("apart", "most"), [(1, 50), (3, 50), (7, 2)])
def test_neighbors_are_what_users_had_near_each_other(spark: Any, apart: int, most: int) -> None:
    found = link_neighbors(windows_of(spark, ROWS), apart, most).collect()
    expected = plain_links(ROWS, apart, most)
    assert {(r["item_idx"], r["linked"]) for r in found} == set(expected)
    for row in found:
        key = row["item_idx"], row["linked"]
        assert row["weight"] == pytest.approx(expected[key], rel=1e-6)


def test_spark_and_the_benchmark_find_the_same_neighbors(spark: Any) -> None:
    dice = np.random.default_rng(0)
    sequences = [dice.integers(1, 20, dice.integers(2, 9)) for _ in range(40)]
    rows = [(items.tolist(), 0) for items in sequences]
    items, linked, weights = benchmark_links.find_neighbors(sequences, 20, 4, 5)
    found = link_neighbors(windows_of(spark, rows), 4, 5).collect()
    by_pair = {(r["item_idx"], r["linked"]): r["weight"] for r in found}
    assert len(by_pair) == len(items)
    for key, weight in zip(zip(items.tolist(), linked.tolist(), strict=True), weights, strict=True):
        assert by_pair[key] == pytest.approx(weight, rel=1e-6)


def test_attributes_are_words_that_several_items_have(spark: Any) -> None:
    catalogue = [
        (1, {"genres": "Drama|War", "year": "1990"}),
        (2, {"genres": "War Comedy Drama", "year": "1991"}),
        (3, {"genres": "Comedy", "brand": "War"}),
        (4, None),
        (5, {"genres": ""}),
    ]
    items = spark.createDataFrame(catalogue, "item_idx int, attributes map<string,string>")
    found = sorted(
        (r["item_idx"], r["linked"], r["weight"]) for r in link_attributes(items).collect()
    )
    # In the order of words: Comedy, Drama, War, all of genres; the others have one item each.
    assert found == [(1, 1, 1.0), (1, 2, 1.0), (2, 0, 1.0), (2, 1, 1.0), (2, 2, 1.0), (3, 0, 1.0)]


def test_links_of_a_night_hold_nothing_of_the_hold_out_or_of_validation(
    make_lake: Callable[..., Lake],
) -> None:
    more = ("model.neighbor_weight=1", "model.attributes=true", "gold.validation_share=0.3")
    lake = make_lake(*SMALL, *more)
    known = []
    for planted in ([], [Event(u, 39, 10 + u) for u in range(1, 21)]):
        write_silver(lake, [*BEFORE, *planted])
        build_gold(lake, NIGHT)
        tables = (schemas.GOLD_TRAINING_SEQUENCES, schemas.SILVER_ITEMS)
        read = {table.name: lake.version(table) for table in tables}
        commit = write_item_links(lake, read, lake.settings.model)
        urls = pin_item_links(lake, commit.version)
        assert list(urls) == [schemas.NEIGHBOR_LINKS]  # no item of these has attributes
        rows = [
            tuple(row.values())
            for url in urls[schemas.NEIGHBOR_LINKS]
            for row in pq.ParquetFile(url.removeprefix("file://")).read().to_pylist()
        ]
        assert len(rows) == commit.rows > 0
        known.append(sorted(rows))
    assert known[0] == known[1]
    windows = lake.read(schemas.GOLD_TRAINING_SEQUENCES)
    own = link_neighbors(windows.where("split = 'train'"), 20, 32).collect()
    assert sorted(row[:2] for row in own) == [row[:2] for row in known[0]]
    assert windows.where("split = 'validation'").count() > 0
