"""What rules look at: facts of items, as of the night, and attributes of users."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from datetime import date

import pyarrow as pa
from delta.tables import DeltaTable
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from recsys import schemas
from recsys.config import Rules
from recsys.errors import ConfigError, InputError, first_line
from recsys.java import delta_log, file_system, hadoop_path, newest_snapshot
from recsys.lake.local import local_frame
from recsys.lake.tables import Lake

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_OWN_COLUMNS = (schemas.FIRST_SEEN, schemas.TITLE)
_BETWEEN_ELEMENTS = "\x1f"
_VALUES = "_values"


def items_path(rules: Rules, run_date: date) -> str | None:
    """Where the facts of items of a night lie; None where the rules look at none."""
    if not rules.items_path or not (rules.columns or rules.rerank.freshness > 0):
        return None
    return rules.items_path.replace("{date}", str(run_date))


def describe_state(lake: Lake, rules: Rules, run_date: date) -> str:
    """What the facts of items are now, as text: a night is done again where that is another.

    Raises:
        InputError: there is nothing.
    """
    path = items_path(rules, run_date)
    if path is None:
        return ""
    _require(lake, path)
    if DeltaTable.isDeltaTable(lake.spark, path):
        log = delta_log(lake.spark, path)
        return f"{path} {newest_snapshot(lake.spark, log).version()}"
    place = hadoop_path(lake.spark, path)
    files, found = file_system(lake.spark, place).listFiles(place, True), []
    while files.hasNext():
        status = files.next()
        name = str(status.getPath().toString())
        found.append(f"{name} {status.getLen()} {status.getModificationTime()}")
    return "\n".join(sorted(found))


def read_facts(
    lake: Lake, rules: Rules, columns: Sequence[str], items_version: int, run_date: date
) -> pa.Table:
    """item_idx and the named columns of every item as text; an array's elements by \\x1f.

    A column is taken from ``rules.items_path`` if it is there, else from silver/items.

    Raises:
        ConfigError: there is no such column.
        InputError: the table of facts is missing, or has an item twice.
    """
    items = lake.read(schemas.SILVER_ITEMS, items_version)
    path = items_path(rules, run_date)
    facts = None if path is None else _read(lake, path)
    beside = [] if facts is None else [name for name in columns if name in facts.columns]
    own = [name for name in columns if name not in beside]
    _require_attributes(items, facts, path, [name for name in own if name not in _OWN_COLUMNS])
    found = items.select(schemas.ITEM_ID, schemas.ITEM_IDX, *[_own(name) for name in own])
    if facts is not None and beside:
        item_id = F.trim(F.col(schemas.ITEM_ID).cast("string")).alias(schemas.ITEM_ID)
        shown = [_as_text(facts, name) for name in beside]
        found = found.join(facts.select(item_id, *shown), schemas.ITEM_ID, "left")
    table: pa.Table = found.select(schemas.ITEM_IDX, *[F.col(f"`{n}`") for n in columns]).toArrow()
    return table


def _own(name: str) -> Column:
    value = F.col(name) if name in _OWN_COLUMNS else F.col(schemas.ATTRIBUTES)[F.lit(name)]
    return value.cast("string").alias(name)


def _as_text(facts: DataFrame, name: str) -> Column:
    value = F.col(f"`{name}`")
    if isinstance(facts.schema[name].dataType, T.ArrayType):
        value = F.array_join(value.cast("array<string>"), _BETWEEN_ELEMENTS)
    return value.cast("string").alias(name)


def _require(lake: Lake, path: str) -> None:
    place = hadoop_path(lake.spark, path)
    try:
        there = bool(file_system(lake.spark, place).exists(place))
    except Exception as error:
        raise _unreadable(path, error) from error
    if not there:
        raise InputError(
            "the table of items that the rules look at is missing",
            where=path,
            do="write it before the night scores, or correct rules.items_path",
        )


def _read(lake: Lake, path: str) -> DataFrame:
    """The table of facts, by item_id."""
    _require(lake, path)
    reader = lake.spark.read
    delimiter = _DELIMITERS.get(path[-4:].lower())
    try:
        if DeltaTable.isDeltaTable(lake.spark, path):
            facts = reader.format("delta").load(path)
        elif delimiter:
            facts = reader.csv(path, sep=delimiter, header=True)
        else:
            facts = reader.parquet(path)
    except Exception as error:
        raise _unreadable(path, error) from error
    if schemas.ITEM_ID not in facts.columns:
        raise InputError(
            f"the table of items that the rules look at has no column {schemas.ITEM_ID}",
            where=f"{path} has {', '.join(facts.columns)}",
            do=f"name the column with the log's item ids {schemas.ITEM_ID}",
        )
    item_id = F.trim(F.col(schemas.ITEM_ID).cast("string")).alias(schemas.ITEM_ID)
    twice = facts.groupBy(item_id).count().where("count > 1").orderBy(schemas.ITEM_ID).first()
    if twice:
        raise InputError(
            f"item {twice[0]} has {twice[1]} rows in the table of items that the rules look at",
            where=path,
            do="keep one row an item, as of the run date ({date} in rules.items_path names a day)",
        )
    return facts


def _unreadable(path: str, error: Exception) -> InputError:
    return InputError(
        f"the table of items that the rules look at can't be read: {first_line(error)}",
        where=path,
        do="rules.items_path is a Delta table, a Parquet folder, or a .csv or .tsv with a header",
    )


def _require_attributes(
    items: DataFrame, facts: DataFrame | None, path: str | None, named: Sequence[str]
) -> None:
    """Refuse a column that nothing has; a night before the first item has all."""
    if not named or items.isEmpty():
        return
    keys = items.select(F.explode(F.map_keys(schemas.ATTRIBUTES))).distinct().collect()
    known = {str(row[0]) for row in keys}
    for name in named:
        if name in known:
            continue
        theirs = [] if facts is None else [c for c in facts.columns if c != schemas.ITEM_ID]
        choice = sorted({*known, *_OWN_COLUMNS, *theirs})
        near = difflib.get_close_matches(name, choice, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        place = f"silver/items and {path}" if path else "silver/items (rules.items_path is null)"
        raise ConfigError(
            f"rules name the column {name}, which no item has",
            where=f"{place}: {', '.join(choice)}",
            do=f"{hint}name one of these, declare it under items.attributes of the log's format, "
            "or write it into the table of rules.items_path",
        )


def read_user_values(lake: Lake, users: int, attributes: int, names: Sequence[str]) -> DataFrame:
    """user_idx and the values of the named attributes, as one JSON array of texts and nulls.

    Args:
        users, attributes: versions of silver/users and silver/user_attributes; -1: nobody has any.
        names: of the attributes.
    """
    known = lake.read(schemas.SILVER_USERS, users).select(schemas.USER_ID, schemas.USER_IDX)
    if attributes < 0:
        table = schemas.SILVER_USER_ATTRIBUTES
        told = local_frame(lake.spark, [], table.ddl)
    else:
        told = lake.read(schemas.SILVER_USER_ATTRIBUTES, attributes)
    values = F.to_json(F.array(*[F.col(schemas.ATTRIBUTES)[F.lit(name)] for name in names]))
    joined = known.join(told, schemas.USER_ID, "left")
    return joined.select(schemas.USER_IDX, values.alias(_VALUES))


def list_user_values(rows: DataFrame) -> list[str]:
    """The different values of ``read_user_values``, in the order that numbers the groups."""
    return [row[0] for row in rows.select(_VALUES).distinct().orderBy(_VALUES).collect()]


def number_groups(lake: Lake, rows: DataFrame, values: Sequence[str]) -> DataFrame:
    """user_idx and rules_group: the place of the user's values among ``values``."""
    keys = [(value, at) for at, value in enumerate(values)]
    numbers = local_frame(lake.spark, keys, f"{_VALUES} string, {schemas.RULES_GROUP} int")
    return rows.join(F.broadcast(numbers), _VALUES).select(schemas.USER_IDX, schemas.RULES_GROUP)
