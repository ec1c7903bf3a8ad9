"""A small lake whose users were scored once, and ways to spoil their lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from recsys import schemas
from recsys.bundle import BundleInfo, save_bundle
from recsys.config import load_settings
from recsys.lake.tables import Lake
from recsys.score.job import score_users
from recsys.score.users import Versions
from tests.ranked_users import HISTORIES, ITEMS, KNOWN, USERS, N, popularity, random_model

NIGHT = date(2026, 3, 5)


@dataclass(frozen=True)
class Scored:
    lake: Lake
    bundle: Path
    versions: Versions
    top_n: int
    basis: str
    lists: dict[str, list[dict[str, Any]]]


def sequence_row(user: int, items: list[int], seen: list[int]) -> tuple[Any, ...]:
    """A row of gold/sequences."""
    length = len(items)
    bucket = 8 if length < 9 else 16
    own = (user, f"u{user}", items, [1] * length, [0] * length, length, seen, bucket)
    return (*own, [], 0, [], [])


def score_once(spark: SparkSession, folder: Path) -> Scored:
    """Thirty users scored once: of these, u28 to u30 never did anything."""
    lake = Lake(spark, load_settings(None, [f"lake.root={folder}/lake", f"score.n={N}"]))

    def write(table: schemas.Table, rows: list[Any]) -> int:
        return lake.replace(table, spark.createDataFrame(rows, table.ddl)).version

    known = [(f"u{n}", n, NIGHT, NIGHT) for n in range(1, USERS + 1)]
    # Of a later night, which was run before this one was run again: no list for this user.
    later = [("later", USERS + 1, NIGHT, NIGHT + timedelta(days=365))]
    users = write(schemas.SILVER_USERS, known + later)
    items = write(
        schemas.SILVER_ITEMS, [(f"i{n}", n, NIGHT, None, None) for n in range(1, ITEMS + 1)]
    )
    sequences = write(schemas.GOLD_SEQUENCES, [sequence_row(u, *h) for u, h in HISTORIES.items()])
    days = [(i, NIGHT, 1, int(w)) for i, w in enumerate(popularity()) if w > 0]
    stats = write(schemas.GOLD_ITEM_STATS, days)
    bundle = folder / "bundle"
    save_bundle(bundle, random_model(), BundleInfo(str(NIGHT), "f", KNOWN, 4))
    versions = Versions(sequences, users, items, stats)
    done = score_users(lake, bundle, "7", versions, NIGHT)
    commit = done.commit
    assert commit.rows == USERS
    rows = lake.read(schemas.GOLD_TOP_N, commit.version).collect()
    assert {(row["run_date"], row["model_version"]) for row in rows} == {(NIGHT, "7")}
    lists = {r["user_id"]: [entry.asDict() for entry in r["recommendations"]] for r in rows}
    return Scored(lake, bundle, versions, commit.version, done.basis, lists)


Row = tuple[str, list[dict[str, Any]] | None]


def change(rows: list[Row], user: str, how: Callable[[list[dict[str, Any]]], Any]) -> list[Row]:
    return [(u, how(entries or []) if u == user else entries) for u, entries in rows]


def with_first(**values: Any) -> Callable[[list[dict[str, Any]]], Any]:
    return lambda entries: [{**entries[0], **values}, *entries[1:]]


SEEN = f"i{HISTORIES[1][1][0]}"


def add_lists(lake: Lake, nights: dict[date, list[Row]]) -> int:
    """Lists of some nights in one commit, by model version 8; the table's version."""
    rows = [(day, user, "8", entries) for day, own in nights.items() for user, entries in own]
    table = schemas.GOLD_TOP_N
    return lake.append(table, lake.spark.createDataFrame(rows, table.ddl)).version
