"""From the settings and the lake's tables to the rules that a night's lists obey."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyspark.sql import DataFrame

from recsys import schemas
from recsys.config import RUN_DATE, Filter, Pin, Rules
from recsys.errors import ConfigError, InputError
from recsys.lake.local import local_frame
from recsys.lake.popularity import read_item_ids
from recsys.lake.rule_tables import (
    items_path,
    list_user_values,
    number_groups,
    read_facts,
    read_user_values,
)
from recsys.lake.tables import Lake
from recsys.ranking.filters import Coded, Value, encode, find_holding, lower_end
from recsys.ranking.rules import ListRules

_LOOKED_AT = 50_000  # item ids, for one that is like a wrong one
UserValues = Mapping[str, str | None]


@dataclass(frozen=True)
class NightRules:
    """The rules of a night.

    Attributes:
        arrays: what scoring applies.
        attributes: of users, that the rules look at; empty where all users are alike.
        values: of the attributes; a group of ``arrays`` each.
        said: a line for the terminal: what the filters leave out.
    """

    arrays: ListRules
    attributes: tuple[str, ...]
    values: Sequence[str]
    said: str

    @property
    def basis(self) -> str:
        """A hash of all that lists depend on: of other rules or facts it is another."""
        made = hashlib.sha256(json.dumps([self.attributes, list(self.values)]).encode())
        for value in vars(self.arrays).values():
            made.update(f"{value.dtype} {value.shape}".encode())
            made.update(np.ascontiguousarray(value).tobytes())
        return made.hexdigest()

    @property
    def group_columns(self) -> list[str]:
        """The column that ``add_groups`` adds, if it adds one."""
        return [schemas.RULES_GROUP] if self.attributes else []

    def add_groups(
        self, lake: Lake, users: DataFrame, users_version: int, attributes_version: int
    ) -> DataFrame:
        """Add rules_group to rows with user_idx, if users differ.

        Of another night's versions, users whose values nobody has now are left out.
        """
        if not self.attributes:
            return users
        rows = read_user_values(lake, users_version, attributes_version, self.attributes)
        return users.join(number_groups(lake, rows, self.values), schemas.USER_IDX)

    def find_groups(
        self, lake: Lake, user_idx: npt.NDArray[np.integer], tables: RuleTables
    ) -> npt.NDArray[np.int64]:
        """The groups of some users, int64 [users]; zeros where all are alike."""
        if not self.attributes:
            return np.zeros(len(user_idx), dtype=np.int64)
        wanted = local_frame(lake.spark, [(int(u),) for u in user_idx], f"{schemas.USER_IDX} int")
        rows = self.add_groups(lake, wanted, tables.users, tables.user_attributes).toArrow()
        names = (schemas.USER_IDX, schemas.RULES_GROUP)
        by_user = dict(zip(*(rows.column(name).to_pylist() for name in names), strict=True))
        return np.array([by_user[int(user)] for user in user_idx], dtype=np.int64)


@dataclass(frozen=True)
class RuleTables:
    """Versions of the tables that rules look at; -1: there is no such table."""

    items: int
    users: int
    user_attributes: int = -1


def read_rules(
    lake: Lake, versions: RuleTables, run_date: date, today: date | None = None
) -> NightRules | None:
    """The rules of a night; None where none is on.

    Args:
        run_date: whose pins and facts of items are taken.
        today: what $run_date and ages mean; None: ``run_date``.

    Raises:
        ConfigError: a column, a pinned item or the like is not known.
        InputError: the table of facts is missing or wrong, or no item passes the filters.
    """
    settings = lake.settings.rules
    if not settings.enabled:
        return None
    today = today or run_date
    names = settings.columns
    if settings.rerank.freshness > 0:
        names = tuple(dict.fromkeys((*names, schemas.FIRST_SEEN)))
    item_ids = read_item_ids(lake, versions.items).to_pylist()
    facts = read_facts(lake, settings, names, versions.items, run_date)
    columns = _encode_columns(facts, names, len(item_ids))
    keys, values, named = list[str](), list[UserValues]([{}]), settings.user_attributes
    if named:
        rows = read_user_values(lake, versions.users, versions.user_attributes, named)
        keys = list_user_values(rows)
        values = [dict(zip(named, json.loads(key), strict=True)) for key in keys]
    arrays = make_rules(settings, columns, values, item_ids, run_date, today)
    if len(item_ids) > 1 and not arrays.allowed.any():
        raise InputError(
            f"the rules' filters leave no item: {_count_left_out(settings, columns, today)}",
            where=items_path(settings, run_date) or lake.path(schemas.SILVER_ITEMS),
            do="correct the table, or the filters (a value of another kind counts as missing)",
        )
    shown = int(arrays.allowed.sum())
    said = f"rules: {shown:,} of {len(item_ids) - 1:,} items may be shown"
    left_out = _count_left_out(settings, columns, today)
    return NightRules(arrays, named, keys, f"{said} ({left_out})" if left_out else said)


def _encode_columns(facts: pa.Table, names: Sequence[str], size: int) -> dict[str, Coded]:
    """Columns by item index, [size]."""
    places = facts.column(schemas.ITEM_IDX).to_numpy()
    found = {}
    for name in names:
        values: list[str | None] = [None] * size
        for place, value in zip(places, facts.column(name).to_pylist(), strict=True):
            values[place] = value
        found[name] = encode(values)
    return found


def make_rules(
    settings: Rules,
    columns: Mapping[str, Coded],
    users: Sequence[UserValues],
    item_ids: Sequence[str],
    run_date: date,
    today: date,
) -> ListRules:
    """The arrays of rules.

    Args:
        columns: facts of items by item index.
        users: the different values of the users' attributes, a group each.
        item_ids: by index, [items + 1].
        run_date, today: as for ``read_rules``.

    Raises:
        ConfigError: a pinned item is not known.
    """
    size, rerank = len(item_ids), settings.rerank
    allowed = np.ones(size, dtype=bool)
    allowed[0] = False
    for rule in settings.filters:
        if rule.user_attribute is None:
            allowed &= _holds_of(rule, columns[rule.column], today)
    codes, tables, groups = _make_user_filters(settings.filters, columns, users, size)
    pins = [pin for pin in settings.pins if pin.holds_on(run_date)]
    alike = rerank.diversity_column if rerank.diversity > 0 else None
    caps = rerank.max_per_category
    no_codes = np.zeros((0, size), dtype=np.int32)
    return ListRules(
        allowed=allowed,
        user_codes=codes,
        user_tables=tables,
        groups=groups,
        candidates=np.array(rerank.candidates),
        diversity=np.array(rerank.diversity),
        alike=columns[alike].codes if alike else np.zeros(0, dtype=np.int32),
        freshness=_make_freshness(settings, columns, today),
        categories=np.stack([columns[c.column].codes for c in caps]) if caps else no_codes,
        caps=np.array([c.cap for c in caps], dtype=np.int64),
        pin_items=np.array(_find_items(pins, item_ids), dtype=np.int64),
        pin_ranks=np.array([pin.rank for pin in pins], dtype=np.int64),
        group_pins=np.array(
            [[_has_pin(pin, user) for pin in pins] for user in users], dtype=bool
        ).reshape(len(users), len(pins)),
    )


def _holds_of(rule: Filter, column: Coded, today: date) -> npt.NDArray[np.bool_]:
    operand = today if rule.value == RUN_DATE else rule.value
    return find_holding(column.texts, rule.op, operand, rule.missing == "keep")[column.codes]


def _make_user_filters(
    filters: Sequence[Filter], columns: Mapping[str, Coded], users: Sequence[UserValues], size: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """``user_codes``, ``user_tables`` and ``groups`` of ``ListRules``."""
    found, rows = [], []
    for rule in filters:
        if rule.user_attribute is None:
            continue
        column, own = columns[rule.column], [user[rule.user_attribute] for user in users]
        values = sorted(set(own), key=lambda value: (value is not None, value or ""))
        rows.append([values.index(value) for value in own])
        found.append((column.codes, np.stack([_holds_for(rule, column, v) for v in values])))
    if not found:
        nothing = np.zeros((0, 0, 0), dtype=bool)
        groups = np.zeros((len(users), 0), dtype=np.int64)
        return np.zeros((0, size), dtype=np.int32), nothing, groups
    shape = np.max([table.shape for _, table in found], axis=0)
    tables = np.zeros((len(found), *shape), dtype=bool)
    for place, (_, table) in enumerate(found):
        tables[place, : table.shape[0], : table.shape[1]] = table
    return np.stack([codes for codes, _ in found]), tables, np.array(rows, dtype=np.int64).T


def _holds_for(rule: Filter, column: Coded, value: str | None) -> npt.NDArray[np.bool_]:
    """By code, for users with a value."""
    missing = rule.missing == "keep"
    operand: Value | None = value
    if value is not None and rule.op in ("at_least", "at_most"):
        operand = lower_end(value)
    if operand is None:
        found = np.full(len(column.texts) + 1, rule.unknown_user == "keep")
        found[0] = missing
        return found
    return find_holding(column.texts, rule.op, operand, missing)


def _make_freshness(
    settings: Rules, columns: Mapping[str, Coded], today: date
) -> npt.NDArray[np.float64]:
    rerank = settings.rerank
    if not rerank.freshness > 0:
        return np.zeros(0)
    column = columns[schemas.FIRST_SEEN]
    newness = [0.0]  # not known
    for text in column.texts:
        try:
            age = max(0, (today - date.fromisoformat(text[:10])).days)
        except ValueError:
            newness.append(0.0)
            continue
        newness.append(2.0 ** (-age / rerank.freshness_half_life_days))
    return rerank.freshness * np.array(newness)[column.codes]


def _has_pin(pin: Pin, user: UserValues) -> bool:
    return pin.users is None or user[pin.users.attribute] in pin.users.values


def _find_items(pins: Sequence[Pin], item_ids: Sequence[str]) -> list[int]:
    wanted = {pin.item_id for pin in pins}
    place = {item_id: at for at, item_id in enumerate(item_ids) if item_id in wanted}
    for pin in pins:
        if pin.item_id not in place:
            near = difflib.get_close_matches(pin.item_id, item_ids[:_LOOKED_AT], n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(
                f"rules.pins: item_id={pin.item_id} is no item of silver/items",
                where=f"{len(item_ids) - 1:,} items have had an event so far",
                do=f"{hint}correct it, or give the pin a first_date on which the item is known",
            )
    return [place[pin.item_id] for pin in pins]


def _count_left_out(settings: Rules, columns: Mapping[str, Coded], today: date) -> str:
    """How many items each filter leaves out for everybody, in words."""
    parts = []
    for rule in settings.filters:
        if rule.user_attribute is None:
            out = int((~_holds_of(rule, columns[rule.column], today)[1:]).sum())
            parts.append(f"{rule.column} {rule.op}: {out:,} left out")
    return ", ".join(parts)
