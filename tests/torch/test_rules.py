"""Rules through the ranker: groups, re-ranking, checks of lists; and rules that are off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys.errors import ConfigError
from recsys.models import MatrixFactorization, MatrixFactorizationConfig
from recsys.ranking.approximate import build_clusters
from recsys.ranking.exact_top_n import rank_products
from recsys.ranking.histories import Histories
from recsys.ranking.rules import load_rules
from recsys.score.lists import rank_popular
from recsys.score.ranker import index_items, make_queries, rank_histories, rank_popular_lists
from recsys.score.rule_checks import (
    OVER_CAP,
    PIN_MISSING,
    RULES,
    TOO_SHORT,
    check_list,
    find_group_items,
)
from recsys.score.rules import NightRules
from tests.ranked_users import HISTORIES, ITEMS, KNOWN, N, naive, popularity, random_model
from tests.rule_arrays import make_arrays

pytestmark = pytest.mark.torch

REGIONS = {
    # Users of the second group may see every third item alone, those of the third nothing.
    "user_codes": np.stack([np.arange(ITEMS + 1) % 3, np.ones(ITEMS + 1)]).astype(np.int32),
    "user_tables": np.array([[[True] * 3, [True, False, False]], [[False] * 3, [True] * 3]]),
    "groups": np.array([[0, 1], [1, 1], [0, 0]]),
}


def make_users() -> tuple[list[int], Histories, list[np.ndarray]]:
    users = sorted(HISTORIES)
    histories = Histories([np.array(HISTORIES[user][0]) for user in users])
    return users, histories, [np.array(HISTORIES[user][1]) for user in users]


def test_each_user_may_be_shown_what_its_group_may() -> None:
    allowed = np.ones(ITEMS + 1, dtype=bool)
    allowed[[0, 3, 7, 22]] = False
    rules = make_arrays(ITEMS, allowed=allowed, **REGIONS)
    users, histories, seen = make_users()
    groups = np.array([user % 3 for user in users])
    model = random_model()
    lists = rank_histories(model, histories, seen, popularity(), N, rules=rules, groups=groups)
    for row, user in enumerate(users):
        hidden = {0: [], 1: [i for i in range(ITEMS + 1) if i % 3], 2: range(ITEMS + 1)}[user % 3]
        closed = [*HISTORIES[user][1], 3, 7, 22, *hidden]
        real = lists.items[row] > 0
        got = list(zip(lists.items[row][real], lists.from_model[row][real], strict=True))
        assert got == naive(model, HISTORIES[user][0], closed, N), user
    assert lists.pinned is None


def test_approximate_lists_obey_too_and_are_asked_what_the_night_asks() -> None:
    users, histories, seen = make_users()
    codes = np.arange(ITEMS + 1, dtype=np.int32)[None, :] % 2
    rules = make_arrays(
        ITEMS,
        user_codes=codes,
        user_tables=np.eye(2, dtype=bool)[None],
        groups=np.array([[0], [1]]),
    )
    groups = np.array(users) % 2
    model = random_model()
    index = index_items(model, popularity())
    assert index is not None
    clusters = build_clusters(index)
    given = (model, histories, seen, popularity(), N, None, index, rules, groups)
    exact = rank_histories(*given)
    every = rank_histories(*given, clusters.with_probes(clusters.count))
    assert (every.items == exact.items).all()
    assert (every.scores == exact.scores).all()
    some = rank_histories(*given, clusters.with_probes(1))
    for row, group in enumerate(groups):
        listed = some.items[row][some.items[row] > 0]
        assert (codes[0, listed] == group).all()
        assert len(listed) == (exact.items[row] > 0).sum()

    knows = np.array([any(item <= KNOWN for item in HISTORIES[user][0]) for user in users])
    queries = make_queries(model, histories, seen, rules, groups)
    for group, one in enumerate(queries):
        assert one.shown is not None
        assert one.shown[1:].tolist() == [item % 2 == group for item in range(1, KNOWN + 1)]
        ranked = rank_products(one.users, index, N, one.seen, one.shown)
        rows = knows & (groups == group)
        model_s = np.where(exact.from_model[rows], exact.items[rows], 0)
        assert ranked.items.tolist() == model_s.tolist()


@pytest.mark.parametrize("with_rules", [False, True])
def test_no_rule_changes_nothing(with_rules: bool) -> None:
    users, histories, seen = make_users()
    rules = make_arrays(ITEMS) if with_rules else None
    groups = np.zeros(len(users), dtype=np.int64) if with_rules else None
    given = (random_model(), histories, seen, popularity(), N)
    plain, found = rank_histories(*given), rank_histories(*given, rules=rules, groups=groups)
    for name in ("items", "scores", "from_model"):
        assert getattr(plain, name).tobytes() == getattr(found, name).tobytes()
    assert found.pinned is None


def test_reordered_lists_do_not_depend_on_who_else_is_ranked() -> None:
    rules = make_arrays(
        ITEMS, diversity=np.array(0.4), freshness=np.linspace(0, 0.5, ITEMS + 1),
        categories=(np.arange(ITEMS + 1)[None] % 4).astype(np.int32), caps=np.array([2]),
        pin_items=np.array([8, 25]), pin_ranks=np.array([3, 1]),
        groups=np.zeros((2, 0), dtype=np.int64),
        group_pins=np.array([[True, False], [True, True]]),
    )  # fmt: skip
    users, histories, seen = make_users()
    groups, model = np.array([user % 2 for user in users]), random_model()
    together = rank_histories(model, histories, seen, popularity(), N, rules=rules, groups=groups)
    assert together.pinned is not None
    assert together.pinned.any()
    for row in range(len(users)):
        one = np.array([row])
        alone = rank_histories(
            model, histories.part(one), [seen[row]], popularity(), N, rules=rules,
            groups=groups[one],
        )  # fmt: skip
        assert (alone.items[0] == together.items[row]).all()
        own = alone.items[0][alone.items[0] > 0]
        may_have = find_group_items(rules, groups[row], popularity() > 0)
        assert alone.pinned is not None
        pinned = alone.pinned[0][: len(own)]
        assert not check_list(rules, may_have, seen[row], own, pinned, N)


def test_more_candidates_are_looked_at_than_a_list_has() -> None:
    """Of one category the cap leaves one: without looking further the rest would be popular."""
    categories = np.where(np.arange(ITEMS + 1) <= KNOWN, np.arange(ITEMS + 1) % 7 + 1, 0)
    few, many = (
        make_arrays(
            ITEMS, categories=categories[None].astype(np.int32), caps=np.array([1]),
            candidates=np.array(width),
        )
        for width in (1, KNOWN)
    )  # fmt: skip
    _, histories, seen = make_users()
    given = (random_model(), histories, seen, popularity(), N)
    own = [rank_histories(*given, rules=rules).from_model[:20].sum() for rules in (few, many)]
    assert own[0] < own[1]


def test_a_model_without_vectors_needs_a_column_to_tell_what_is_alike() -> None:
    config = MatrixFactorizationConfig(num_users=3, num_items=KNOWN, dims=4)
    model = MatrixFactorization(config).eval()
    histories = Histories([np.array([1]), np.array([2])], user_idx=np.array([1, 2]))
    given = (model, histories, [np.array([1])] * 2, popularity(), N)
    with pytest.raises(ConfigError, match="diversity compares item vectors") as caught:
        rank_histories(*given, rules=make_arrays(ITEMS, diversity=np.array(0.2)))
    assert "rules.rerank.diversity_column" in caught.value.do
    alike = (np.arange(ITEMS + 1) % 5 + 1).astype(np.int32)
    rules = make_arrays(ITEMS, diversity=np.array(0.99), alike=alike, **REGIONS)
    lists = rank_histories(*given, rules=rules, groups=np.array([0, 1]))
    for row, step in ((0, 1), (1, 3)):
        assert not (lists.items[row] % step).any()
        # One of each kind comes before a second one of any.
        assert len(set(alike[lists.items[row, :5]])) == 5


def test_popular_items_obey_as_the_model_s_do() -> None:
    seen = [np.array([24]), np.array([1])]
    plain = rank_popular_lists(popularity(), seen, N)
    assert plain.items.tolist() == rank_popular(popularity(), seen, N).items.tolist()
    rules = make_arrays(
        ITEMS, diversity=np.array(0.5), pin_items=np.array([24]), pin_ranks=np.array([2]),
        **{**REGIONS, "group_pins": np.ones((3, 1), dtype=bool)},
    )  # fmt: skip
    lists = rank_popular_lists(popularity(), seen, N, rules, np.array([1, 0]))
    assert lists.items.tolist() == [[3, 21, 18, 15, 12, 6], [3, 24, 4, 25, 23, 22]]


def test_rules_are_read_as_they_were_written(tmp_path: Path) -> None:
    rules = make_arrays(30_000, freshness=np.linspace(0, 1, 30_001), pin_items=np.array([4]))
    rules.save(tmp_path)
    found = load_rules(tmp_path)
    for name, value in vars(rules).items():
        read = getattr(found, name)
        assert read.dtype == value.dtype
        assert np.array_equal(read, value)
    assert isinstance(found.freshness, np.memmap)


def test_other_rules_or_facts_are_another_basis_of_lists() -> None:
    def basis(values: list[str], **arrays: Any) -> str:
        return NightRules(make_arrays(9, **arrays), ("region",), values, "").basis

    pins = {"pin_items": np.array([3]), "pin_ranks": np.array([1])}
    same = basis(["[null]", '["a"]'])
    assert same == basis(["[null]", '["a"]'])
    others = [
        basis(["[null]", '["b"]']),
        basis(["[null]", '["a"]'], candidates=np.array(11)),
        basis(["[null]", '["a"]'], freshness=np.zeros(10)),
        basis(["[null]", '["a"]'], **pins),
        basis(["[null]", '["a"]'], **{**pins, "pin_ranks": np.array([2])}),
    ]
    assert len({same, *others}) == 6


GOOD = ([1, 2, 6, 3], [True, False, False, False])
SPOILED = {
    "too short": ([1, 2, 6], [True, False, False], TOO_SHORT),
    "filtered": ([1, 2, 6, 5], [True, False, False, False], RULES[1]),
    "pin is elsewhere": ([2, 1, 6, 3], [False, True, False, False], PIN_MISSING),
    "no pin": ([2, 6, 3, 4], [False, False, False, False], PIN_MISSING),
    "another is called pinned": ([1, 2, 6, 3], [True, True, False, False], RULES[3]),
    "three of a category": ([1, 2, 6, 8], [True, False, False, False], OVER_CAP),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_list_is_found(name: str) -> None:
    """Items 2, 4, 6 and 8 are of one category, of which a list may have two."""
    allowed = np.array([False, True, True, True, True, False, True, True, True])
    codes = np.array([0, 0, 1, 0, 1, 0, 1, 0, 1], dtype=np.int32)
    rules = make_arrays(
        8, allowed=allowed, categories=codes[None], caps=np.array([2]),
        pin_items=np.array([1]), pin_ranks=np.array([1]),
    )  # fmt: skip
    may_have, seen = find_group_items(rules, 0, np.ones(9, dtype=bool)), np.array([7])

    def check(items: list[int], pinned: list[bool]) -> list[str]:
        own = np.array(items, dtype=np.int64)
        return check_list(rules, may_have, seen, own, np.array(pinned), 4)

    items, pinned, rule = SPOILED[name]
    assert check(*GOOD) == []
    assert rule in check(items, pinned)


def test_a_cap_gives_way_where_nothing_else_is_left() -> None:
    codes = np.ones((1, 5), dtype=np.int32)
    rules = make_arrays(4, categories=codes, caps=np.array([2]))
    lists = rank_popular_lists(np.arange(5, dtype=np.float32), [np.array([2])], 4, rules)
    assert lists.items.tolist() == [[4, 3, 1, 0]]
    may_have, nothing = find_group_items(rules, 0, np.arange(5) > 0), np.zeros(3, dtype=bool)
    own = lists.items[0, :3]
    assert not check_list(rules, may_have, np.array([2]), own, nothing, 4)


def test_biases_say_nothing_of_what_items_are_like() -> None:
    """Items of two kinds, good and bad ones: the second of a list is of the other kind."""
    model = random_model()
    kind = torch.arange(KNOWN + 1) % 2
    with torch.no_grad():
        weight = model.item_embedding.weight
        weight[1:, 1:] = torch.randn(2, weight.shape[1] - 1)[kind[1:]]
        weight[1:, 0] = torch.linspace(-8, 8, KNOWN)
    rules = make_arrays(ITEMS, diversity=np.array(0.95), candidates=np.array(KNOWN))
    _, histories, seen = make_users()
    lists = rank_histories(model, histories, seen, popularity(), N, rules=rules)
    both = lists.from_model[:, :2].all(axis=1) & (lists.from_model.sum(axis=1) > 3)
    assert both.sum() > 10
    first, second = (kind[lists.items[both, place]] for place in (0, 1))
    assert (first != second).all()
