"""Proof that a night's lists may be shown."""

from __future__ import annotations

from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import PublishError
from recsys.lake.popularity import read_popularity
from recsys.lake.tables import Lake
from recsys.score.rule_checks import find_broken
from recsys.score.rules import NightRules
from recsys.score.users import Versions, all_users


def check_lists(
    lake: Lake,
    top_n_version: int,
    versions: Versions,
    run_date: date,
    rules: NightRules | None = None,
) -> int:
    """Prove that the lists may be shown; the number of lists.

    Every user has one list; ranks are 1..n; no item twice, none seen, none unknown; scores are
    numbers. A list may be shorter than n only where the user has seen nearly everything that the
    rules show him. No list has an item that the filters leave out, pins stand where they should,
    and caps hold wherever another item could have come.

    Args:
        rules: what the lists were made with.

    Raises:
        PublishError: which rule is broken, by how many lists, with an example.
    """
    n = lake.settings.score.n
    lists = lake.read(schemas.GOLD_TOP_N, top_n_version).where(
        F.col(schemas.RUN_DATE) == F.lit(run_date)
    )
    item_map = lake.read(schemas.SILVER_ITEMS, versions.items)
    catalogue = item_map.count()
    popular = (
        lake.read(schemas.GOLD_ITEM_STATS, versions.item_stats)
        .select(schemas.ITEM_IDX)
        .distinct()
        .count()
    )
    users = all_users(lake, versions, run_date).withColumnRenamed(schemas.USER_ID, "known_user")
    rows = lists.join(users, lists[schemas.USER_ID] == users["known_user"], "full_outer")
    entries = F.col(schemas.RECOMMENDATIONS)
    ids = F.transform(entries, lambda e: e[schemas.ITEM_ID])
    # With rules, what is possible is counted by user (below).
    most = min(catalogue, popular) if rules is None else 0
    possible = F.least(F.lit(n), F.lit(most) - F.size(schemas.SEEN_ITEMS))
    proofs = {
        "has no list": F.col(schemas.USER_ID).isNull(),
        "is not a known user": F.col("known_user").isNull(),
        "has too short a list": F.coalesce(F.size(entries), F.lit(0)) < possible,
        "has ranks that are not 1..n": F.transform(entries, lambda e: e[schemas.RANK])
        != F.when(F.size(entries) > 0, F.sequence(F.lit(1), F.size(entries))).otherwise(
            F.array().cast("array<int>")
        ),
        "has an item twice": F.size(F.array_distinct(ids)) < F.size(ids),
        "has a score that is no number": F.exists(
            entries,
            lambda e: (
                e[schemas.SCORE].isNull()
                | F.isnan(e[schemas.SCORE])
                | (F.abs(e[schemas.SCORE]) == float("inf"))
            ),
        ),
    }
    checks = [F.count_if(F.coalesce(rule, F.lit(False))) for rule in proofs.values()]
    someone = F.coalesce(F.col(schemas.USER_ID), F.col("known_user"))
    examples = [F.min(F.when(rule, someone)) for rule in proofs.values()]
    found = rows.agg(F.count(F.lit(1)), *checks, *examples).first()
    assert found is not None, "an aggregate has a row"
    for place, rule in enumerate(proofs):
        if broken := found[1 + place]:
            _refuse(lake, rule, broken, found[1 + len(proofs) + place], top_n_version)
    _check_unique(lake, lists, top_n_version)
    _check_seen(lake, lists, item_map, users, top_n_version)
    if rules is not None:
        size = len(rules.arrays.allowed) - 1
        popularity = read_popularity(lake, versions.item_stats, size, run_date, 1).ever
        known = users.withColumnRenamed("known_user", schemas.USER_ID)
        known = rules.add_groups(lake, known, versions.users, versions.user_attributes)
        broken_rule = find_broken(lists, known, item_map, popularity, rules, n)
        if broken_rule:
            rule, count, example = broken_rule
            _refuse(lake, rule, count, example, top_n_version)
    return int(found[0])


def _check_unique(lake: Lake, lists: DataFrame, version: int) -> None:
    """One list a user."""
    again = lists.groupBy(schemas.USER_ID).count().where("count > 1")
    found = again.agg(F.count(F.lit(1)), F.min(schemas.USER_ID)).first()
    assert found is not None, "an aggregate has a row"
    if found[0]:
        _refuse(lake, "has more than one list", found[0], found[1], version)


def _check_seen(
    lake: Lake, lists: DataFrame, items: DataFrame, users: DataFrame, version: int
) -> None:
    """No unknown item, and none that the user has seen."""
    shown = lists.select(
        schemas.USER_ID, F.explode(f"{schemas.RECOMMENDATIONS}.{schemas.ITEM_ID}").alias("shown")
    )
    ids = items.select(F.col(schemas.ITEM_ID).alias("shown"), schemas.ITEM_IDX)
    per_user = (
        shown.join(ids, "shown", "left")
        .groupBy(schemas.USER_ID)
        .agg(F.collect_list(F.coalesce(schemas.ITEM_IDX, F.lit(0))).alias("shown"))
    )
    seen = users.select("known_user", schemas.SEEN_ITEMS)
    bad = per_user.join(seen, F.col(schemas.USER_ID) == F.col("known_user")).where(
        F.array_contains("shown", 0) | F.arrays_overlap("shown", schemas.SEEN_ITEMS)
    )
    found = bad.agg(F.count(F.lit(1)), F.min(schemas.USER_ID)).first()
    assert found is not None, "an aggregate has a row"
    if found[0]:
        _refuse(lake, "has an item it has seen or nobody knows", found[0], found[1], version)


def _refuse(lake: Lake, rule: str, broken: int, example: str, version: int) -> None:
    raise PublishError(
        f"{broken} lists are wrong: a user {rule} (e.g. {example})",
        where=f"{lake.path(schemas.GOLD_TOP_N)} version {version}",
        do="the lists published before stay live; run score_users again with --force",
    )
