"""Settings of the rules that lists obey: who may be shown what, and in which order (docs/rules.md).

Entries of lists (a filter, a cap, a pin) have no place in ``conf/base.yaml``: what may be left out
of them is null, which switches that part off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from itertools import combinations
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from recsys.config.section import Section

RUN_DATE = "$run_date"
USER = "$user."
Scalar = StrictBool | StrictInt | StrictFloat | date | StrictStr
_Text = Annotated[str, Field(coerce_numbers_to_str=True)]
_ORDERED = ("at_least", "at_most")
_SETS = ("in", "not_in")


class Filter(Section):
    column: str = Field(
        min_length=1,
        description="column of rules.items_path or, where that has none of this name, attribute, "
        "first_seen or title of silver/items",
    )
    op: Literal[
        "equals", "not_equals", "in", "not_in", "at_least", "at_most", "contains", "not_contains"
    ] = Field(description="how an item's value must stand to `value` for the item to be shown")
    value: Scalar | tuple[Scalar, ...] = Field(
        description="a text, number, truth value or date; a list for in and not_in; $run_date; or "
        "$user.NAME, an attribute of privacy.user_attributes"
    )
    missing: Literal["keep", "drop"] = Field(
        description="what becomes of an item whose value is missing or not of the kind of `value`"
    )
    unknown_user: Literal["keep", "drop"] | None = Field(
        default=None,
        description="what becomes of an item with a value where the user's attribute is not known; "
        "needed for $user.NAME, and for nothing else",
    )

    @property
    def user_attribute(self) -> str | None:
        """The attribute of users that the value is taken from."""
        text = self.value
        return text[len(USER) :] if isinstance(text, str) and text.startswith(USER) else None

    @model_validator(mode="after")
    def _check(self) -> Filter:
        value, op = self.value, self.op
        shown = f"value={list(value) if isinstance(value, tuple) else value}"
        if isinstance(value, tuple) != (op in _SETS):
            needed = "a list" if op in _SETS else "one value, or op in or not_in"
            raise ValueError(f"{shown} with op={op}: it needs {needed}")
        if isinstance(value, tuple) and (not value or len({type(part) for part in value}) > 1):
            raise ValueError(f"{shown} with op={op}: it needs one value at least, all of one kind")
        if isinstance(value, tuple) and any(str(part).startswith("$") for part in value):
            raise ValueError(f"{shown}: a list holds no {RUN_DATE} or {USER}NAME")
        if isinstance(value, str) and value.startswith("$"):
            if value != RUN_DATE and (not value.startswith(USER) or value == USER):
                raise ValueError(f"{shown} is not known: {RUN_DATE} or {USER}NAME")
            if value == RUN_DATE and "contains" in op:
                raise ValueError(f"{shown} is a date, and op={op} looks for a word")
        elif op in _ORDERED and isinstance(value, (str, bool)):
            raise ValueError(f"{shown} with op={op}: it needs a number, a date, {RUN_DATE} or "
                             f"{USER}NAME")  # fmt: skip
        elif "contains" in op and not isinstance(value, str):
            raise ValueError(f"{shown} with op={op}: it needs a word or {USER}NAME")
        if (self.unknown_user is None) == (self.user_attribute is not None):
            needs = "needs" if self.user_attribute else "must not have"
            raise ValueError(f"{shown} {needs} unknown_user: keep or drop")
        return self


class Cap(Section):
    column: str = Field(min_length=1, description="as of a filter; one value is one category")
    cap: int = Field(ge=1, description="items of one category in a list at most")


class UserCondition(Section):
    attribute: str = Field(min_length=1, description="one of privacy.user_attributes")
    values: tuple[_Text, ...] = Field(min_length=1, description="one of which a user must have")


class Pin(Section):
    item_id: str = Field(
        min_length=1, coerce_numbers_to_str=True, description="as the log writes it"
    )
    rank: int = Field(ge=1, description="its place in the lists, from 1")
    users: UserCondition | None = Field(default=None, description="whose lists; null: everybody's")
    first_date: date | None = Field(
        default=None, description="first run date of the pin; null: no first one"
    )
    last_date: date | None = Field(
        default=None, description="last run date of the pin; null: no last one"
    )

    @model_validator(mode="after")
    def _check(self) -> Pin:
        first, last = self.first_date, self.last_date
        if first and last and first > last:
            raise ValueError(f"first_date={first} is after last_date={last}")
        return self

    def holds_on(self, run_date: date) -> bool:
        """Whether lists of a night have it."""
        return (self.first_date or run_date) <= run_date <= (self.last_date or run_date)

    def meets(self, other: Pin) -> bool:
        """Whether some user may have both in one list."""
        first = max(self.first_date or date.min, other.first_date or date.min)
        if first > min(self.last_date or date.max, other.last_date or date.max):
            return False
        ours, theirs = self.users, other.users
        if ours is None or theirs is None or ours.attribute != theirs.attribute:
            return True
        return bool(set(ours.values) & set(theirs.values))


class Rerank(Section):
    candidates: int = Field(
        ge=1, description="the first items of a user that are looked at for a list (n at least)"
    )
    diversity: float = Field(
        ge=0, lt=1, description="1 - lambda of MMR: weight of being unlike what is above; 0: off"
    )
    diversity_column: str | None = Field(
        description="column, as of a filter, by whose value items are alike or not; null: the "
        "cosine of the model's item vectors"
    )
    freshness: float = Field(
        ge=0,
        description="weight of an item's newness beside its relevance (0 to 1); 0: off",
    )
    freshness_half_life_days: float = Field(
        gt=0, description="days since an item was first seen after which its newness is half"
    )
    max_per_category: tuple[Cap, ...] = Field(
        description="items of one category in a list at most (docs/rules.md)"
    )

    @property
    def enabled(self) -> bool:
        """Whether lists come out in another order than the model's."""
        return self.diversity > 0 or self.freshness > 0 or bool(self.max_per_category)


class Rules(Section):
    items_path: str | None = Field(
        description="Delta table, Parquet folder, or .csv or .tsv with a header, with what is "
        "known of items on the run date: item_id and a column a fact; {date} in it stands for the "
        "run date"
    )
    filters: tuple[Filter, ...] = Field(
        description="all must hold for an item to be shown (docs/rules.md)"
    )
    rerank: Rerank
    pins: tuple[Pin, ...] = Field(description="items put into lists by their rank (docs/rules.md)")

    @property
    def enabled(self) -> bool:
        """Whether any rule is on."""
        return bool(self.filters or self.pins) or self.rerank.enabled

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the rules look at, in the order in which they name them."""
        rerank = self.rerank
        named = [part.column for part in self.filters]
        named += [part.column for part in rerank.max_per_category]
        if rerank.diversity > 0 and rerank.diversity_column:
            named.append(rerank.diversity_column)
        return tuple(dict.fromkeys(named))

    @property
    def user_attributes(self) -> tuple[str, ...]:
        """The attributes of users that the rules look at, ascending."""
        named = {part.user_attribute for part in self.filters if part.user_attribute}
        return tuple(sorted(named | {pin.users.attribute for pin in self.pins if pin.users}))


def check_rules(rules: Rules, n: int, user_attributes: tuple[str, ...]) -> None:
    """What rules need of other settings.

    Args:
        n: score.n.
        user_attributes: privacy.user_attributes.

    Raises:
        ValueError: which setting does not go with which other one.
    """
    _check_pins(rules.pins, n)
    columns = [part.column for part in rules.rerank.max_per_category]
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise ValueError(f"rules.rerank.max_per_category has column={twice[0]} twice: keep one")
    named: Mapping[str, Any] = {
        **{f"rules.filters.{at}.value": f.user_attribute for at, f in enumerate(rules.filters)},
        **{f"rules.pins.{at}.users": p.users.attribute
           for at, p in enumerate(rules.pins) if p.users},
    }  # fmt: skip
    for key, attribute in named.items():
        if attribute and attribute not in user_attributes:
            raise ValueError(
                f"{key} names the attribute {attribute}, which privacy.user_attributes="
                f"{list(user_attributes)} does not: add it there (the log's format declares it)"
            )


def _check_pins(pins: Sequence[Pin], n: int) -> None:
    for at, pin in enumerate(pins):
        if pin.rank > n:
            raise ValueError(f"rules.pins.{at}.rank={pin.rank} must be at most score.n={n}")
    for (at, pin), (other_at, other) in combinations(enumerate(pins), 2):
        same = "rank" if pin.rank == other.rank else "item_id"
        if getattr(pin, same) == getattr(other, same) and pin.meets(other):
            raise ValueError(
                f"rules.pins.{at} and rules.pins.{other_at} both have {same}="
                f"{getattr(pin, same)}: give them other dates, other users, or keep one"
            )
