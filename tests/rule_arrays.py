"""Rules as arrays for tests, and a list made from them one item at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from recsys.ranking.rules import ListRules


def make_arrays(items: int, **given: Any) -> ListRules:
    """Rules of a catalogue that change nothing, but for what is given."""
    allowed = np.ones(items + 1, dtype=bool)
    allowed[0] = False
    groups = given.get("groups", np.zeros((1, 0), dtype=np.int64))
    pins = len(given.get("pin_items", ()))
    values: dict[str, Any] = {
        "allowed": allowed,
        "user_codes": np.zeros((0, items + 1), dtype=np.int32),
        "user_tables": np.zeros((0, 0, 0), dtype=bool),
        "groups": groups,
        "candidates": np.array(10),
        "diversity": np.array(0.0),
        "alike": np.zeros(0, dtype=np.int32),
        "freshness": np.zeros(0),
        "categories": np.zeros((0, items + 1), dtype=np.int32),
        "caps": np.zeros(0, dtype=np.int64),
        "pin_items": np.zeros(0, dtype=np.int64),
        "pin_ranks": np.zeros(0, dtype=np.int64),
        "group_pins": np.ones((len(groups), pins), dtype=bool),
    }
    return ListRules(**{**values, **given})


Entry = tuple[int, float, bool]
"""Item, score, from the model?"""


def make_list(
    rules: ListRules,
    candidates: Sequence[Entry],
    pins: dict[int, int],
    popularity: np.ndarray,
    seen: set[int],
    n: int,
    similarity: Callable[[int, int], float],
) -> list[tuple[int, bool]]:
    """One user's list by loops: (item, pinned?) best first.

    Args:
        candidates: best first, of items that the user may have.
        pins: item to rank, those that the user's list has.
        popularity: of what the user may have.
    """
    worth = weigh_entries(rules, candidates)
    rest = [entry for entry in candidates if entry[0] not in pins]
    held, chosen = list(pins), list[int]()
    places = n - sum(rank <= n for rank in pins.values())
    d = float(rules.diversity)

    def has_room(item: int) -> bool:
        return all(
            codes[item] == 0 or sum(codes[other] == codes[item] for other in held) < cap
            for codes, cap in zip(rules.categories, rules.caps, strict=True)
        )

    def take(item: int) -> None:
        held.append(item)
        chosen.append(item)

    while len(chosen) < places:
        best, best_value = None, -np.inf
        for item, _, _ in rest:
            if item in held or not has_room(item):
                continue
            value = worth[item]
            if d > 0:
                value = (1 - d) * value - d * max((similarity(item, j) for j in held), default=0.0)
            if value > best_value:
                best, best_value = item, value
        if best is None:
            break
        take(best)
    order = sorted(range(1, len(popularity)), key=lambda i: (-popularity[i], i))
    popular = [item for item in order if popularity[item] > 0 and item not in seen]
    for needs_room in (True, False):
        for item in popular if needs_room else [*(entry[0] for entry in rest), *popular]:
            free = item not in held and (has_room(item) or not needs_room)
            if free and len(chosen) < places:
                take(item)
    by_rank = {rank: item for item, rank in pins.items()}
    made, left = [], iter(chosen)
    for rank in range(1, n + 1):
        item = by_rank[rank] if rank in by_rank else next(left, None)
        made += [] if item is None else [(item, rank in by_rank)]
    return made


def weigh_entries(rules: ListRules, candidates: Sequence[Entry]) -> dict[int, float]:
    """Relevance and freshness of a user's candidates."""
    if not len(rules.freshness) and not rules.diversity > 0:
        return {item: -float(place) for place, (item, _, _) in enumerate(candidates)}
    worth, below = {}, 2.0 * float(rules.diversity) / (1.0 - float(rules.diversity))
    for of_model in (True, False):
        own = [(i, s if of_model else float(np.log(s))) for i, s, m in candidates if m == of_model]
        low, high = (f([s for _, s in own], default=0.0) for f in (min, max))
        for item, score in own:
            relevance = (score - low) / (high - low) if high > low else 1.0
            fresh = rules.freshness[item] if len(rules.freshness) else 0.0
            worth[item] = (relevance if of_model else relevance - 1.0 - below) + fresh
    return worth
