"""Lists that obey rules, against lists made one item at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.ranking.item_index import build_index
from recsys.ranking.rules import ListRules
from recsys.score.lists import Lists, obey
from recsys.score.rule_checks import (
    check_list,
    find_group_items,
)
from tests.rule_arrays import make_arrays, make_list

pytestmark = pytest.mark.torch

SIZE = 12
POPULAR = np.array([0, 9, 9, 8, 0, 7, 6, 6, 5, 4, 3, 2, 1], dtype=np.float32)
CODES = st.lists(st.integers(0, 3), min_size=SIZE + 1, max_size=SIZE + 1)


@st.composite
def rules_of_lists(draw: st.DrawFn) -> ListRules:
    def codes() -> np.ndarray:
        return np.array(draw(CODES), dtype=np.int32)

    columns = draw(st.integers(0, 2))
    pins = draw(st.lists(st.integers(1, SIZE), max_size=3, unique=True))
    ranks = draw(st.permutations(range(1, 6)))[: len(pins)]
    fresh = st.sampled_from([0.0, 0.25, 1.0])
    some: dict[str, Any] = {
        "diversity": np.array(draw(st.sampled_from([0.0, 0.3, 0.75]))),
        "categories": np.stack([codes() for _ in range(columns)])
        if columns
        else np.zeros((0, SIZE + 1), np.int32),
        "caps": np.array([draw(st.integers(1, 3)) for _ in range(columns)], dtype=np.int64),
        "pin_items": np.array(pins, dtype=np.int64),
        "pin_ranks": np.array(ranks, dtype=np.int64),
    }
    if draw(st.booleans()):
        some["freshness"] = np.array([draw(fresh) for _ in range(SIZE + 1)])
    if draw(st.booleans()):
        some["alike"] = codes()
    allowed = np.array([False, *[draw(st.integers(0, 5)) > 0 for _ in range(SIZE)]])
    return make_arrays(SIZE, allowed=allowed, **some)


@st.composite
def candidates_of(draw: st.DrawFn, rules: ListRules, n: int) -> tuple[list[Any], set[int]]:
    """Of one user: the model's best, then popular ones; and what is seen."""
    seen = set(draw(st.lists(st.integers(1, SIZE), max_size=SIZE)))
    left = [i for i in range(1, SIZE + 1) if rules.allowed[i] and POPULAR[i] > 0 and i not in seen]
    own = draw(st.lists(st.sampled_from(left), unique=True, max_size=8)) if left else []
    scores = sorted((draw(st.sampled_from([-1.0, 0.5, 0.5, 2.0, 7.0])) for _ in own), reverse=True)
    order = sorted(zip(scores, own, strict=True), key=lambda pair: (-pair[0], pair[1]))
    made = [(item, score, True) for score, item in order]
    others = sorted(set(left) - set(own), key=lambda i: (-POPULAR[i], i))
    width = n + draw(st.integers(0, 4))
    return [*made, *[(i, float(POPULAR[i]), False) for i in others]][:width], seen


def as_lists(entries: list[list[Any]]) -> Lists:
    width = max(len(row) for row in entries)
    filled = [row + [(0, -np.inf, False)] * (width - len(row)) for row in entries]
    columns = ([[entry[at] for entry in row] for row in filled] for at in range(3))
    items, scores, from_model = columns
    return Lists(np.array(items, np.int64), np.array(scores, np.float32), np.array(from_model))


# The first column is a bias, which says nothing of what an item is like.
VECTORS = torch.tensor(
    [[0.0, 0.0, 0.0], [-9.0, 2.0, 0.0], [0.0, 0.0, 1.0], [9.0, 0.0, -3.0], [9.0, 0.0, 0.0]]
)


@settings(max_examples=150)
@given(data=st.data(), n=st.integers(1, 7))
def test_lists_are_those_of_a_loop_over_items(data: st.DataObject, n: int) -> None:
    rules = data.draw(rules_of_lists())
    # The last items are newer than the model, and like none.
    vectors = VECTORS[torch.arange(SIZE - 1) % len(VECTORS)]
    index = build_index(vectors, torch.ones(len(vectors), dtype=torch.bool))
    users = [data.draw(candidates_of(rules, n)) for _ in range(3)]
    users = [user for user in users if user[0]]
    if not users:
        return
    seen = [np.array(sorted(own), dtype=np.int64) for _, own in users]
    left = np.where(rules.allowed, POPULAR, np.float32(0))
    candidates = as_lists([entries for entries, _ in users])
    found = obey(rules, 0, candidates, seen, left, n, index, biases=1)

    def similarity(one: int, other: int) -> float:
        if len(rules.alike):
            return float(rules.alike[one] == rules.alike[other] > 0)
        if max(one, other) >= len(vectors):
            return 0.0
        pair = vectors[[one, other], 1:].double()
        size = torch.linalg.vector_norm(pair, dim=1, keepdim=True)
        return float((pair / size.where(size > 0, torch.ones(()))).prod(dim=0).sum())

    assert found.pinned is not None
    for row, (entries, own) in enumerate(users):
        pairs = zip(rules.pin_items.tolist(), rules.pin_ranks.tolist(), strict=True)
        pins = {item: rank for item, rank in pairs if rules.allowed[item] and item not in own}
        expected = make_list(rules, entries, pins, left, own, n, similarity)
        real = found.items[row] > 0
        got = list(zip(found.items[row][real], found.pinned[row][real], strict=True))
        assert got == expected
        known = {item: (score, of_model) for item, score, of_model in entries}
        for place in np.flatnonzero(real):
            item = int(found.items[row, place])
            score, of_model = known.get(item, (float(POPULAR[item]), False))
            assert found.scores[row, place] == np.float32(score)
            assert found.from_model[row, place] == (of_model and item not in pins)
        assert not found.pinned[row][~real].any()
        assert not np.isfinite(found.scores[row][~real]).any()
        broken = check_list(
            rules, find_group_items(rules, 0, POPULAR > 0), np.unique(seen[row]),
            found.items[row][real], found.pinned[row][real], n,
        )  # fmt: skip
        # A published list is as long as the last pin's rank.
        assert broken == [] or max(pins.values(), default=0) > n
