"""Erasing users: from every table, with what is live pointed at the versions without them.

A user's rows go from all tables by a join with a local list, never by a condition: Delta writes
conditions into its log. The user's index stays, on a row that no longer says whose it was, so that
it is never given again. ``lake/proof.py`` then removes old files and reads those that are left.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from delta.tables import DeltaMergeBuilder, DeltaTable
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import InputError, LakeError
from recsys.lake.bronze import drop_headers, read_header
from recsys.lake.commits import ROWS_KEPT, USER_METADATA
from recsys.lake.faults import explain_write
from recsys.lake.formats import LogFormat
from recsys.lake.in_use import began_under_way
from recsys.lake.local import local_frame
from recsys.lake.operations import newest_night
from recsys.lake.parse import parse_records
from recsys.lake.pseudonyms import check_key, load_key, pseudonym
from recsys.lake.tables import Lake
from recsys.schemas import Table

Say = Callable[[str], None]

_RECORDS = (schemas.BRONZE_EVENTS, schemas.BRONZE_REJECTS)
_BY_PSEUDONYM = (
    schemas.SILVER_EVENTS,
    schemas.SILVER_SET_ASIDE,
    schemas.SILVER_USER_ATTRIBUTES,
    schemas.GOLD_TOP_N,
)
_BY_INDEX = (
    schemas.GOLD_SEQUENCES,
    schemas.GOLD_TRAINING_SEQUENCES,
    schemas.GOLD_TRAINING_EXAMPLES,
    schemas.GOLD_HOLDOUT,
    schemas.GOLD_RATINGS,
    schemas.GOLD_USER_LINKS,
)
ERASED_FROM = (
    *_RECORDS, *_BY_PSEUDONYM, schemas.SILVER_USERS, schemas.SILVER_USER_VAULT, *_BY_INDEX,
)  # fmt: skip
_PLACE = (schemas.SOURCE_FILE, schemas.SOURCE_OFFSET, schemas.INGEST_DATE)


@dataclass(frozen=True)
class Users:
    """Whom to erase: ids as the log writes them, pseudonyms, and the indices that are known."""

    raw: tuple[str, ...]
    pseudonyms: tuple[str, ...]
    indices: tuple[int, ...]

    @property
    def word(self) -> str:
        """A regular expression, of Java and Python, for an id that stands as a word."""
        ids = "|".join(re.escape(one) for one in {*self.raw, *self.pseudonyms})
        return rf"(?<![\w])({ids})(?![\w])"


def find_users(lake: Lake, raw_ids: Sequence[str]) -> Users:
    """Look the users up.

    Raises:
        InputError: no id was given.
        LakeError: the pseudonym key is not the lake's.
    """
    raw = tuple(sorted({text.strip() for text in raw_ids if text.strip()}))
    if not raw:
        raise InputError("no user to erase", do="give ids as the log writes them, or --users-file")
    key = load_key(lake.settings)
    check_key(lake, key)
    pseudonyms = tuple(pseudonym(key, one) for one in raw)
    ids = _ids(lake, schemas.USER_ID, pseudonyms)
    known = lake.read(schemas.SILVER_USERS).join(ids, schemas.USER_ID, "left_semi")
    indices = tuple(row[0] for row in known.select(schemas.USER_IDX).collect())
    return Users(raw, pseudonyms, indices)


def check_quiet(lake: Lake) -> None:
    """Refuse while a night seems to run: old files that it reads would go.

    Raises:
        LakeError: a night has begun and not ended within the last day.
    """
    begun = began_under_way(lake, datetime.now(UTC)) if lake.exists(schemas.OPS_RUNS) else None
    if begun is not None:
        raise LakeError(
            f"a night that began at {begun:%Y-%m-%d %H:%M} UTC has not ended: it may still read "
            "files that erasing removes",
            where=lake.path(schemas.OPS_RUNS),
            do="wait for it or run it to its end, then erase; --force if it is surely dead",
        )


def erase_rows(lake: Lake, log: LogFormat, users: Users, say: Say) -> dict[str, int]:
    """Delete the users' rows everywhere and point what is live at the versions without them.

    The index goes last, so that a call that was cut off finds it again.

    Returns:
        Rows deleted by table; none the second time.
    """
    before = versions_of(lake)
    deleted = {}
    for table in _RECORDS:
        records = records_of(lake, log, table, users)
        deleted[table.name] = _delete(lake, table, records, _PLACE)
    for table in _BY_PSEUDONYM:
        ids = _ids(lake, schemas.USER_ID, users.pseudonyms)
        deleted[table.name] = _delete(lake, table, ids, (schemas.USER_ID,))
    for table in _BY_INDEX:
        ids = _ids(lake, schemas.USER_IDX, users.indices)
        deleted[table.name] = _delete(lake, table, ids, (schemas.USER_IDX,))
    vault, raw = schemas.SILVER_USER_VAULT, _ids(lake, schemas.RAW_USER_ID, users.raw)
    deleted[vault.name] = _delete(lake, vault, raw, (schemas.RAW_USER_ID,))
    deleted[schemas.SILVER_USERS.name] = _bury(lake, users)
    _scrub(lake, users)
    for name, rows in deleted.items():
        say(f"  {name:<24} {rows:,} rows")
    point_to_new_versions(lake, before)
    return deleted


def records_of(lake: Lake, log: LogFormat, table: Table, users: Users) -> DataFrame:
    """The places of the users' records; of a record without a user, any that holds the id."""
    rows = lake.read(table)
    if log.kind != "csv" or not log.header:
        return _mentions(rows, log, None, users)
    found = rows.select(*_PLACE).limit(0)
    for (night,) in rows.select(schemas.INGEST_DATE).distinct().collect():
        own = rows.where(F.col(schemas.INGEST_DATE) == F.lit(night))
        header = read_header(own, log)
        found = found.unionByName(_mentions(drop_headers(own, log), log, header, users))
    return found


def _mentions(
    records: DataFrame, log: LogFormat, header: list[str] | None, users: Users
) -> DataFrame:
    parsed = parse_records(records, log, header, date(9000, 1, 1), 0, 0)
    words = "|".join(re.escape(one) for one in users.raw)
    word: Column = F.col(schemas.RAW).rlike(
        rf"(?<![\p{{L}}\p{{N}}_])({words})(?![\p{{L}}\p{{N}}_])"
    )
    nobody = F.col(schemas.RAW_USER_ID).isNull()
    mine = F.coalesce(F.col(schemas.RAW_USER_ID).isin(*users.raw), F.lit(False))
    return parsed.where(mine | (nobody & word)).select(*_PLACE)


def _ids(lake: Lake, name: str, values: Sequence[str | int]) -> DataFrame:
    kind = "int" if name == schemas.USER_IDX else "string"
    return local_frame(lake.spark, [(value,) for value in values], f"{name} {kind}")


def _delete(lake: Lake, table: Table, rows: DataFrame, key: Sequence[str]) -> int:
    if not lake.exists(table):
        return 0
    same = " and ".join(f"t.{name} = r.{name}" for name in key)
    return _merge(lake, table, rows.distinct(), same, lambda merge: merge.whenMatchedDelete())


def _bury(lake: Lake, users: Users) -> int:
    """Keep the indices on rows without a date, whose ids say nothing."""
    table, index = schemas.SILVER_USERS, schemas.USER_IDX
    if not lake.exists(table):
        return 0
    nameless: dict[str, str | Column] = {
        schemas.USER_ID: F.concat(F.lit("erased-"), F.col(f"t.{index}").cast("string")),
        schemas.FIRST_SEEN: F.lit(None).cast("date"),
    }
    ids = _ids(lake, index, users.indices)
    return _merge(
        lake, table, ids, f"t.{index} = r.{index}", lambda m: m.whenMatchedUpdate(set=nameless)
    )


def _merge(
    lake: Lake,
    table: Table,
    rows: DataFrame,
    same: str,
    change: Callable[[DeltaMergeBuilder], DeltaMergeBuilder],
) -> int:
    before = lake.version(table)
    lake.spark.conf.set(USER_METADATA, ROWS_KEPT)
    try:
        target: DeltaTable = lake.delta(table)
        change(target.alias("t").merge(rows.alias("r"), same)).execute()
    except Exception as error:
        raise explain_write(table.name, lake.path(table), error) from error
    finally:
        lake.spark.conf.unset(USER_METADATA)
    return lake.changed_rows(table, before)


def _scrub(lake: Lake, users: Users) -> None:
    """Messages of checks and failures may give a user as an example."""
    for table in (schemas.OPS_RUNS, schemas.OPS_CHECKS):
        rows = [row.asDict() for row in lake.read(table).collect()]
        told = [re.sub(users.word, "(erased)", row[schemas.MESSAGE] or "") for row in rows]
        if any(text != (row[schemas.MESSAGE] or "") for text, row in zip(told, rows, strict=True)):
            changed = zip(rows, told, strict=True)
            _rewrite(lake, table, [{**row, schemas.MESSAGE: text} for row, text in changed])


def versions_of(lake: Lake) -> dict[str, int]:
    """The newest version of every table that users are erased from, by name."""
    return {table.name: lake.version(table) for table in ERASED_FROM}


def point_to_new_versions(lake: Lake, before: Mapping[str, int]) -> None:
    """Published lists and the last night's record name the newest versions.

    Older nights forget the versions that go with the users.

    Args:
        before: the newest versions as they were recorded, by table name.
    """
    night = newest_night(lake, "build_gold")
    published, runs = schemas.OPS_PUBLISHED, schemas.OPS_RUNS
    if lake.exists(published):
        live = {
            schemas.TOP_N_VERSION: lake.version(schemas.GOLD_TOP_N),
            schemas.USERS_VERSION: lake.version(schemas.SILVER_USERS),
        }
        rows = [{**row.asDict(), **live} for row in lake.read(published).collect()]
        _rewrite(lake, published, rows)
    if not lake.exists(runs):
        return
    heads = versions_of(lake)
    moved = []
    for row in lake.read(runs).collect():
        known = before if row[schemas.RUN_DATE] == night else {}
        versions = {
            name: _move(row[name], heads, known)
            for name in (schemas.TABLES_READ, schemas.TABLES_WRITTEN)
        }
        moved.append({**row.asDict(), **versions})
    _rewrite(lake, runs, moved)


def _move(
    versions: Mapping[str, int], heads: Mapping[str, int], before: Mapping[str, int]
) -> dict[str, int]:
    """What was the newest version is the one of now; other versions of these tables are gone."""
    kept = {name: v for name, v in versions.items() if name not in heads}
    current = {
        name: heads[name]
        for name, v in versions.items()
        if name in heads and v in (before.get(name), heads[name])
    }
    return kept | current


def _rewrite(lake: Lake, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    def plain(value: Any) -> Any:
        # Spark gives timestamps without zone, in the zone of this machine.
        return value.astimezone(UTC) if isinstance(value, datetime) else value

    values = [[plain(row[name]) for name in table.names] for row in rows]
    lake.replace(table, local_frame(lake.spark, values, table.ddl))
