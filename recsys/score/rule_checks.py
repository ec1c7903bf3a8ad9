"""Proof that a night's lists obey its rules, counted list by list from the rules' arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark import Broadcast
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.ranking.rules import ListRules
from recsys.score.rules import NightRules

Items = npt.NDArray[np.int64]

TOO_SHORT = "has too short a list"
FILTERED = "has an item that the rules' filters leave out"
PIN_MISSING = "has not the items that the rules pin"
PIN_STRANGE = "has an item as pinned that the rules don't pin"
OVER_CAP = "has more items of a category than rules.rerank.max_per_category allows"
RULES = (TOO_SHORT, FILTERED, PIN_MISSING, PIN_STRANGE, OVER_CAP)
_RULE, _SHOWN = "rule", "shown"


class Broken(NamedTuple):
    """A rule that lists break."""

    rule: str
    lists: int
    example: str


def find_broken(
    lists: DataFrame,
    users: DataFrame,
    items: DataFrame,
    popularity: npt.NDArray[np.float32],
    rules: NightRules,
    n: int,
) -> Broken | None:
    """The first of ``RULES`` that lists break; None where all hold.

    Args:
        lists: user_id and recommendations.
        users: user_id and seen_items of all users, and rules_group if they differ.
        items: item_id and item_idx.
        popularity: float32 [items + 1]; an item with 0 is no candidate.
        n: length of the lists.
    """
    entries = lists.select(schemas.USER_ID, F.explode(schemas.RECOMMENDATIONS).alias("entry"))
    entries = entries.select(schemas.USER_ID, "entry.*")
    # Items that nobody knows are found by another check.
    shown = (
        entries.join(items.select(schemas.ITEM_ID, schemas.ITEM_IDX), schemas.ITEM_ID)
        .groupBy(schemas.USER_ID)
        .agg(F.array_sort(F.collect_list(F.struct(*_ENTRY))).alias(_SHOWN))
    )
    own = users.select(schemas.USER_ID, schemas.SEEN_ITEMS, *rules.group_columns)
    rows = own.join(shown, schemas.USER_ID, "left")
    spark = lists.sparkSession
    kept = spark.sparkContext.broadcast((rules.arrays, popularity))
    columns: list[Column | str] = [
        schemas.USER_ID,
        schemas.SEEN_ITEMS,
        *rules.group_columns,
        *[_list_of(name) for name in (schemas.ITEM_IDX, schemas.REASON)],
    ]
    found = (
        rows.select(*columns)
        .mapInArrow(_Checker(kept, n), f"{schemas.USER_ID} string, {_RULE} int")
        .groupBy(_RULE)
        .agg(F.count(F.lit(1)), F.min(schemas.USER_ID))
        .orderBy(_RULE)
        .first()
    )
    kept.destroy()
    return None if found is None else Broken(RULES[found[0]], found[1], found[2])


_ENTRY = (schemas.RANK, schemas.ITEM_IDX, schemas.REASON)


def _list_of(name: str) -> Column:
    values = F.col(f"{_SHOWN}.{name}")
    kind = "array<int>" if name == schemas.ITEM_IDX else "array<string>"
    return F.coalesce(values, F.array().cast(kind)).alias(name)


@dataclass(frozen=True)
class _Checker:
    """What runs inside a Spark worker: batches of lists in, a row for each broken rule out."""

    kept: Broadcast
    n: int

    def __call__(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rules, popularity = self.kept.value
        for batch in batches:
            names = batch.schema.names
            columns = {name: batch.column(name).to_pylist() for name in names}
            groups = columns.get(schemas.RULES_GROUP, [0] * len(batch))
            found: list[tuple[str, int]] = []
            given = zip(
                columns[schemas.USER_ID], groups, columns[schemas.SEEN_ITEMS],
                columns[schemas.ITEM_IDX], columns[schemas.REASON], strict=True,
            )  # fmt: skip
            of_groups = {g: find_group_items(rules, g, popularity > 0) for g in set(groups)}
            for user, group, seen, items, reasons in given:
                pinned = np.array([reason == schemas.PINNED_REASON for reason in reasons], bool)
                broken = check_list(
                    rules, of_groups[group], np.array(seen, np.int64), np.array(items, np.int64),
                    pinned, self.n,
                )  # fmt: skip
                found += [(user, RULES.index(rule)) for rule in broken]
            yield pa.RecordBatch.from_arrays(
                [pa.array([u for u, _ in found], pa.string()),
                 pa.array([rule for _, rule in found], pa.int32())],
                [schemas.USER_ID, _RULE],
            )  # fmt: skip


@dataclass(frozen=True)
class GroupItems:
    """What users of a group may have.

    Attributes:
        group: in the rules.
        shown: by the filters, bool [items + 1].
        known: and that somebody had, bool [items + 1]; others come by pins alone.
        count: of ``known``.
    """

    group: int
    shown: npt.NDArray[np.bool_]
    known: npt.NDArray[np.bool_]
    count: int


def find_group_items(rules: ListRules, group: int, known: npt.NDArray[np.bool_]) -> GroupItems:
    """Of a group, once for all its users.

    Args:
        known: items that somebody had, bool [items + 1].
    """
    shown = rules.shown_to(group)
    return GroupItems(group, shown, shown & known, int((shown & known).sum()))


def check_list(
    rules: ListRules,
    own: GroupItems,
    seen: Items,
    items: Items,
    pinned: npt.NDArray[np.bool_],
    n: int,
) -> list[str]:
    """Which of ``RULES`` a list breaks.

    Args:
        own: of the user's group.
        seen: different item_idx that the user has seen.
        items: item_idx of the list, best first.
        pinned: which of them are said to be pinned.
        n: length of a full list.
    """
    broken = []
    seen = seen[seen < len(own.shown)]
    pins = {
        int(item): int(rank)
        for item, rank, holds in zip(
            rules.pin_items, rules.pin_ranks, rules.group_pins[own.group], strict=True
        )
        if holds and own.shown[item] and item not in seen
    }
    possible = own.count - int(own.known[seen].sum()) + sum(not own.known[i] for i in pins)
    if len(items) < min(n, possible):
        broken.append(TOO_SHORT)
    if not own.shown[items].all():
        broken.append(FILTERED)
    places = {int(item): place for place, item in enumerate(items, 1)}
    # Behind the end of a short list a pin moves up.
    right = [
        places.get(item) == rank or (len(items) < n and places.get(item, n) < rank)
        for item, rank in pins.items()
    ]
    if not all(right):
        broken.append(PIN_MISSING)
    if not set(items[pinned].tolist()) <= set(pins):
        broken.append(PIN_STRANGE)
    if _exceeds_cap(rules, items, np.isin(items, list(pins))) and _has_room(
        rules, own.known, seen, items
    ):
        broken.append(OVER_CAP)
    return broken


def _exceeds_cap(rules: ListRules, items: Items, pinned: npt.NDArray[np.bool_]) -> bool:
    """Whether a list has more of a category than its cap; pins may fill one beyond that."""
    for codes, cap in zip(rules.categories, rules.caps, strict=True):
        counts = np.bincount(codes[items], minlength=1)
        by_pins = np.bincount(codes[items[pinned]], minlength=len(counts))
        if (counts > np.maximum(cap, by_pins))[1:].any():
            return True
    return False


def _has_room(rules: ListRules, known: npt.NDArray[np.bool_], seen: Items, items: Items) -> bool:
    """Whether an item that is not in a list has room in it."""
    room = known.copy()
    room[seen], room[items] = False, False
    for codes, cap in zip(rules.categories, rules.caps, strict=True):
        full = np.flatnonzero(np.bincount(codes[items], minlength=1) >= cap)
        room &= ~np.isin(codes, full[full > 0])
    return bool(room.any())
