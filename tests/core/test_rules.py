"""What rules may say, and of which values their conditions hold."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.config import load_settings
from recsys.config.rules import Cap, Filter, Pin, Rerank, Rules, UserCondition
from recsys.errors import ConfigError
from recsys.ranking.filters import ELEMENT, encode, find_holding, lower_end
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.core

FILTER = "rules.filters=[{column: x, op: %s, value: %s, missing: keep%s}]"
PINS = "rules.pins=[{item_id: %s, rank: %d%s}, {item_id: %s, rank: %d%s}]"
REGION = "privacy.user_attributes=[region, age]"


def fail(*overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_settings(None, overrides)
    return caught.value


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("rules.filters=[{column: x, op: equals, value: 1}]", "rules.filters.0.missing is missing"),
        ("rules.filters=[{colum: x, op: equals, value: 1, missing: keep}]",
         "rules.filters.0.column is missing"),
        ("rules.filters=[{column: x, op: equals, value: 1, missing: keep, or: 2}]",
         "unknown setting rules.filters.0.or"),
        (FILTER % ("like", "a", ""), "rules.filters.0.op='like' is not allowed: input should be "
         "'equals', 'not_equals'"),
        (FILTER % ("equals", "[a]", ""), "value=['a'] with op=equals: it needs one value"),
        (FILTER % ("in", "a", ""), "value=a with op=in: it needs a list"),
        (FILTER % ("in", "[]", ""), "value=[] with op=in: it needs one value at least"),
        (FILTER % ("not_in", "[a, 1]", ""), "value=['a', 1] with op=not_in: it needs one value at "
         "least, all of one kind"),
        (FILTER % ("in", "[$run_date]", ""), "a list holds no $run_date"),
        (FILTER % ("at_least", "old", ""), "value=old with op=at_least: it needs a number, a date"),
        (FILTER % ("contains", "3", ""), "value=3 with op=contains: it needs a word"),
        (FILTER % ("contains", "$run_date", ""), "value=$run_date is a date"),
        (FILTER % ("equals", "$today", ""), "value=$today is not known: $run_date or $user.NAME"),
        (FILTER % ("equals", "$user.region", ""), "value=$user.region needs unknown_user"),
        (FILTER % ("equals", "a", ", unknown_user: keep"), "value=a must not have unknown_user"),
        (FILTER % ("equals", "$user.region", ", unknown_user: keep"),
         "rules.filters.0.value names the attribute region, which privacy.user_attributes=[]"),
        ("rules.rerank.max_per_category=[{column: c, cap: 0}]",
         "rules.rerank.max_per_category.0.cap=0 is not allowed: input should be greater"),
        ("rules.rerank.max_per_category=[{column: c, cap: 1}, {column: c, cap: 2}]",
         "rules.rerank.max_per_category has column=c twice"),
        ("rules.rerank.diversity=1", "rules.rerank.diversity=1 is not allowed"),
        ("rules.rerank.freshness_half_life_days=0", "freshness_half_life_days=0 is not allowed"),
        ("rules.pins=[{item_id: a, rank: 21}]", "rules.pins.0.rank=21 must be at most score.n=20"),
        ("rules.pins=[{item_id: a, rank: 1, users: {attribute: region, values: [x]}}]",
         "rules.pins.0.users names the attribute region"),
        ("rules.pins=[{item_id: a, rank: 1, first_date: 2026-02-01, last_date: 2026-01-01}]",
         "first_date=2026-02-01 is after last_date=2026-01-01"),
        (PINS % ("a", 1, "", "b", 1, ""), "rules.pins.0 and rules.pins.1 both have rank=1"),
        (PINS % ("a", 1, "", "a", 2, ""), "rules.pins.0 and rules.pins.1 both have item_id=a"),
        (PINS % ("a", 1, ", last_date: 2026-01-05", "b", 1, ", first_date: 2026-01-05"),
         "both have rank=1: give them other dates, other users, or keep one"),
    ],
)  # fmt: skip
def test_what_rules_may_not_say(override: str, what: str) -> None:
    assert what in fail(override).what


def test_users_of_pins_that_have_nothing_in_common_may_share_a_rank() -> None:
    def users(values: str, attribute: str = "region") -> str:
        return f", users: {{attribute: {attribute}, values: {values}}}"

    other = users("[c]")
    apart = PINS % ("a", 1, users("[a, b]"), "b", 1, other)
    assert len(load_settings(None, [REGION, apart]).rules.pins) == 2
    for shared in (users("[b, c]"), users("[a]", "age"), ""):
        assert "both have rank=1" in fail(REGION, PINS % ("a", 1, shared, "b", 1, other)).what


def test_ids_of_items_may_be_numbers() -> None:
    users = ", users: {attribute: age, values: [18, 30]}"
    first, second = load_settings(None, [REGION, PINS % (7, 1, users, "1.5", 2, "")]).rules.pins
    assert (first.item_id, second.item_id) == ("7", "1.5")
    assert first.users is not None
    assert first.users.values == ("18", "30")


def test_pins_of_other_days_may_share_a_rank_and_hold_on_theirs() -> None:
    pins = PINS % ("a", 1, ", last_date: 2026-01-04", "b", 1, ", first_date: 2026-01-05")
    first, second = load_settings(None, [pins]).rules.pins
    assert first.holds_on(date(2026, 1, 4))
    assert not first.holds_on(date(2026, 1, 5))
    assert not second.holds_on(date(2026, 1, 4))
    assert second.holds_on(date(2026, 1, 5))


def test_without_a_rule_none_is_on() -> None:
    def rules(*overrides: str) -> Rules:
        return load_settings(None, overrides).rules

    assert not rules().enabled
    assert not rules("rules.items_path=/facts", "rules.rerank.candidates=500").enabled
    assert rules("rules.rerank.diversity=0.1").enabled
    assert rules(FILTER % ("equals", "1", "")).enabled


def test_the_example_of_the_docs_loads_and_the_page_names_every_field(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs/rules.md").read_text(encoding="utf-8")
    example = page.split("```yaml\n")[1].split("```")[0]
    conf = tmp_path / "rules.yaml"
    conf.write_text(example, encoding="utf-8")
    rules = load_settings(conf).rules
    assert [(f.column, f.missing) for f in rules.filters] == [
        ("stock", "drop"), ("available_from", "keep"), ("regions", "keep"), ("age_rating", "keep"),
    ]  # fmt: skip
    assert rules.user_attributes == ("age", "region")
    assert rules.columns[-1] == "category"
    for kind in (Rules, Rerank, Filter, Cap, Pin, UserCondition):
        for name in kind.model_fields:
            assert name in page, f"{kind.__name__}.{name}"


Scalar = str | int | float | bool | date
DAYS = st.dates(date(2026, 1, 1), date(2026, 1, 4))
NUMBERS = st.one_of(st.integers(-2, 3), st.sampled_from([0.5, 2.0]))
TEXTS = st.sampled_from(["a", "b", "A", "0", "2"])
STRANGE = st.sampled_from([None, "", "  ", "nan", "n/a", "2026-13-01"])
COMPARE = {
    "equals": lambda value, wanted: value == wanted,
    "not_equals": lambda value, wanted: value != wanted,
    "at_least": lambda value, wanted: value >= wanted,
    "at_most": lambda value, wanted: value <= wanted,
    "in": lambda value, wanted: any(value == part for part in wanted),
    "not_in": lambda value, wanted: all(value != part for part in wanted),
}


@given(data=st.data(), op=st.sampled_from(sorted(COMPARE)), missing=st.booleans())
def test_conditions_hold_of_values_as_they_compare(
    data: st.DataObject, op: str, missing: bool
) -> None:
    kind = data.draw(st.sampled_from([DAYS, NUMBERS, TEXTS]))
    if kind is TEXTS and op.startswith("at_"):
        kind = NUMBERS
    strange = STRANGE if kind is not TEXTS else st.sampled_from([None, "", "  "])
    values = data.draw(st.lists(st.one_of(kind, strange.map(lambda v: ("strange", v)))))
    operand = data.draw(st.lists(kind, min_size=1, max_size=3) if op.endswith("in") else kind)
    texts = [v[1] if isinstance(v, tuple) else f" {v}" for v in values]
    column = encode([None, *texts])
    found = find_holding(column.texts, op, operand, missing)[column.codes]
    assert found[0] == missing
    for value, holds in zip(values, found[1:], strict=True):
        expected = missing if isinstance(value, tuple) else COMPARE[op](value, operand)
        assert holds == expected, (value, op, operand)


@pytest.mark.parametrize(
    ("text", "op", "operand", "holds"),
    [
        ("2026-01-03 23:59:59", "at_most", date(2026, 1, 3), True),
        ("2026-01-04T00:00:00Z", "at_most", date(2026, 1, 3), False),
        ("true", "equals", True, True), ("0", "equals", True, False), ("no", "equals", False, True),
        ("16.0", "equals", 16, True), ("1e3", "at_least", 999.5, True),
        ("Action|Sci-Fi", "contains", "Sci-Fi", True), ("Action Comedy", "contains", "Com", False),
        (f"New York{ELEMENT}Rio", "contains", "New York", True), ("DE, FR", "contains", "FR", True),
        ("DE;FR", "not_contains", "FR", False), ("2", "contains", "2", True),
    ],
)  # fmt: skip
def test_how_a_value_is_read(text: str, op: str, operand: Scalar, holds: bool) -> None:
    assert find_holding([text], op, operand, missing=not holds).tolist() == [not holds, holds]


@pytest.mark.parametrize(
    ("text", "end"),
    [("18-25", 18), ("56+", 56), ("<18", 0), ("<0", float("-inf")), ("31", 31), ("-5.5", -5.5),
     ("-3--1", -3), ("1e+06-2e+06", 1e6), ("adult", None), ("<x", None), ("nan", None)],
)  # fmt: skip
def test_the_lower_end_of_a_band(text: str, end: float | None) -> None:
    assert lower_end(text) == end
