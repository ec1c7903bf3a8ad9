"""A night whose lists obey rules, from a table of facts to what is live, evaluated and proved."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import mlflow
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys import schemas
from recsys.cli.summary import print_summary
from recsys.config import Rules, load_settings
from recsys.errors import ConfigError, InputError, PublishError, RecsysError
from recsys.lake.publish import live_lists
from recsys.lake.rule_tables import read_facts
from recsys.lake.tables import Lake
from recsys.score.carry import ScoredNight
from recsys.score.checks import check_lists
from recsys.score.job import Scored, score_users
from recsys.score.rules import RuleTables, read_rules
from recsys.steps.lists import SCORE_USERS
from recsys.steps.night import ALL_STEPS
from recsys.steps.runner import fingerprint_of, run_night
from recsys.steps.tracking import open_tracking
from tests.spark.rules_night import DAY, N, Night, check_entries, names_of, run_rules_night

pytestmark = [pytest.mark.spark, pytest.mark.long]


@pytest.fixture(scope="module")
def night(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Night:
    return run_rules_night(spark, tmp_path_factory.mktemp("rules"))


def test_live_lists_obey(night: Night) -> None:
    names = names_of(night)
    rows = night.lake.read(schemas.GOLD_SEQUENCES).select("user_id", "seen_items").collect()
    left = {row[0]: {name for item, name in names.items() if item not in row[1]} for row in rows}
    lists = {row["user_id"]: row["recommendations"] for row in live_lists(night.lake).collect()}
    assert len(lists) == len(night.segments)
    pinned = Counter[str]()
    for user, entries in lists.items():
        check_entries(night, user, [e["item_id"] for e in entries], left[user], N)
        own = {e["item_id"]: e["rank"] for e in entries if e["reason"] == schemas.PINNED_REASON}
        assert own.items() <= night.pins.items()
        pinned.update(own)
    assert pinned[next(iter(night.pins))] > len(lists) / 2
    assert set(pinned) == set(night.pins)
    # Sold-out items are what many would have got.
    assert any("items may be shown (stock at_least: " in line for line in night.said)
    assert "rules: " in night.runs["score_users"].details["rules"]


def test_evaluation_ranks_by_the_same_rules_and_says_what_they_cost(night: Night) -> None:
    names, last = names_of(night), DAY - timedelta(days=1)
    stats = night.lake.read(schemas.GOLD_ITEM_STATS).where(F.col("event_date") <= F.lit(last))
    known = {row[0] for row in stats.select("item_idx").distinct().collect()}
    rows = night.lake.read(schemas.SILVER_USERS).select("user_idx", "user_id").collect()
    users = {row[0]: row[1] for row in rows}
    broken = Counter[str]()
    for name in ("model", "popularity", "recent_popularity", "without_rules"):
        items, cases = night.evaluated[name]
        for row, user_idx in enumerate(cases.user_idx):
            own = [names[int(item)] for item in items[row] if item > 0]
            left = {names[item] for item in known - set(cases.seen[row].tolist())}
            try:
                check_entries(night, users[int(user_idx)], own, left, items.shape[1])
            except AssertionError:
                broken[name] += 1
    assert set(broken) == {"without_rules"}
    details = night.runs["evaluate"].details
    names_in_order = details["models"].split()
    assert names_in_order[:3] == ["model", "without_rules", "popularity"]
    price = float(details["without_rules ndcg_at_10"]) - float(details["model ndcg_at_10"])
    assert float(details["rules price"]) == pytest.approx(price, abs=2e-4)
    low, high = map(float, details["rules price interval"].split())
    assert low <= float(details["rules price"]) <= high
    tracked = mlflow.MlflowClient(open_tracking(night.lake.settings).uri)
    metrics = tracked.get_run(night.runs["train"].details["run_id"]).data.metrics
    assert metrics["rules_price_ndcg_at_10"] == pytest.approx(price, abs=2e-4)
    assert metrics["ndcg_at_10"] == pytest.approx(float(details["model ndcg_at_10"]), abs=1e-4)


def test_the_summary_shows_the_price(night: Night, capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(night.lake, [DAY])
    shown = capsys.readouterr().out
    assert "without_rules" in shown
    assert f"rules cost {night.runs['evaluate'].details['rules price']} of NDCG@10" in shown


def test_a_night_is_done_again_where_the_facts_are_others(night: Night) -> None:
    context = night.context()
    same = fingerprint_of(context, SCORE_USERS)
    assert same == night.runs["score_users"].fingerprint
    path = Path(str(night.lake.settings.rules.items_path).replace("{date}", str(DAY)))
    text, before = path.read_text(encoding="utf-8"), path.stat()
    path.write_text(text.replace("\t0\t", "\t10\t", 1), encoding="utf-8")
    assert fingerprint_of(context, SCORE_USERS) != same
    path.write_text(text, encoding="utf-8")
    os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert fingerprint_of(context, SCORE_USERS) == same
    off = load_settings(None).rules
    plain = night.context(rules=off.model_copy(update={"items_path": "/nowhere"}))
    assert fingerprint_of(plain, SCORE_USERS) == fingerprint_of(
        night.context(rules=off), SCORE_USERS
    )


def test_a_list_with_a_filtered_item_is_not_published(night: Night) -> None:
    lake = night.lake
    versions = night.versions
    rules = read_rules(lake, night.rule_tables, DAY)
    version = night.runs["score_users"].tables_written[schemas.GOLD_TOP_N.name]
    rows = lake.read(schemas.GOLD_TOP_N, version).where(F.col("run_date") == F.lit(DAY))
    lists = [row.asDict(recursive=True) for row in rows.collect()]
    names = names_of(night)
    seen = lake.read(schemas.GOLD_SEQUENCES).orderBy(F.size("seen_items")).first()
    assert seen is not None
    unseen = (name for item, name in names.items() if item not in seen["seen_items"])
    sold_out = next(name for name in unseen if night.facts[name]["stock"] == "0")
    spoiled = next(row for row in lists if row["user_id"] == seen["user_id"])
    spoiled["recommendations"][-1]["item_id"] = sold_out
    frame = lake.spark.createDataFrame(lists, schemas.GOLD_TOP_N.ddl)
    commit = lake.replace(schemas.GOLD_TOP_N, frame, f"run_date = '{DAY}'")
    with pytest.raises(PublishError, match="has an item that the rules' filters leave") as caught:
        check_lists(lake, commit.version, versions, DAY, rules)
    assert caught.value.what.startswith("1 lists are wrong: a user ")


def lists_of(lake: Lake, version: int, day: date) -> dict[str, list[dict[str, Any]]]:
    rows = lake.read(schemas.GOLD_TOP_N, version).where(F.col("run_date") == F.lit(day))
    return {
        row["user_id"]: [entry.asDict() for entry in row["recommendations"]]
        for row in rows.collect()
    }


def assert_same_lists(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for user, entries in one.items():
        # A user is encoded among others: that may move the last bits of what a score adds up.
        scores = pytest.approx([entry.pop("score") for entry in entries], rel=1e-5, abs=1e-6)
        assert [entry.pop("score") for entry in other[user]] == scores
        assert other[user] == entries


def score_again(
    night: Night, settings: Rules, day: date, commits: int, earlier: ScoredNight | None = None
) -> tuple[Scored, dict[str, list[dict[str, Any]]]]:
    """The night's users scored for another day, in so many commits; what was done, and the lists.

    Raises:
        PublishError: a list is wrong.
    """
    score = night.lake.settings.score.model_copy(update={"commits": commits, "partitions": 6})
    context = night.context(rules=settings, score=score)
    lake, versions = context.lake, night.versions
    rules = read_rules(lake, night.rule_tables, DAY)
    assert rules is not None
    assert len(rules.values) > 2  # groups of users
    bundle, before = (
        open_tracking(context.settings).bundle_of("1"),
        lake.version(schemas.GOLD_TOP_N),
    )
    done = score_users(lake, bundle, "1", versions, day, lambda _: None, earlier, rules)
    assert done.commit.version - before == commits
    found = lists_of(lake, done.commit.version, day)
    assert check_lists(lake, done.commit.version, versions, day, rules) == len(found)
    assert found.keys() == night.segments.keys()
    return done, found


def test_lists_of_several_commits_are_those_of_one(night: Night) -> None:
    rules, day = night.lake.settings.rules, DAY + timedelta(days=1)
    (_, one), (_, several) = (score_again(night, rules, day, commits) for commits in (1, 3))
    assert any(entry["reason"] == schemas.PINNED_REASON for own in one.values() for entry in own)
    assert_same_lists(one, several)


@pytest.mark.parametrize("commits", [1, 3])
def test_lists_are_carried_over_where_the_rules_are_as_before(night: Night, commits: int) -> None:
    rules = night.lake.settings.rules.model_copy(update={"pins": ()})
    days = [DAY + timedelta(days=n) for n in (1, 2)]
    first, one = score_again(night, rules, days[0], 1)
    earlier = ScoredNight(days[0], night.versions, first.commit.version, first.basis, days[0])
    second, other = score_again(night, rules, days[1], commits, earlier)
    assert 0 < second.carried < len(night.segments) + 1
    assert_same_lists(one, other)


def bad_rules(folder: Path) -> dict[str, tuple[list[str], type[RecsysError], str, str]]:
    twice = folder / "twice.csv"
    twice.write_text("item_id,stock\ni1,1\ni1,2\n")
    nameless = folder / "nameless.csv"
    nameless.write_text("item,stock\ni1,1\n")
    none_left = folder / "none.csv"
    none_left.write_text("item_id,stock\nx,1\n")
    torn = folder / "torn.parquet"
    torn.write_text("no parquet")
    stock = "rules.filters=[{column: %s, op: at_least, value: 1, missing: drop}]"

    def facts(path: Path) -> list[str]:
        return [f"rules.items_path={path}", stock % "stock"]

    return {
        "no table": (facts(folder / "no.csv"), InputError, "is missing", "rules.items_path"),
        "no ids": (facts(nameless), InputError, "has no column item_id", "item_id"),
        "twice": (facts(twice), InputError, "item i1 has 2 rows", "one row an item"),
        "torn": (facts(torn), InputError, "can't be read", "Delta table"),
        "no column": ([stock % "pric"], ConfigError, "the column pric", "did you mean price?"),
        "none left": (facts(none_left), InputError, "leave no item: stock at_least", "filters"),
        "pin": (["rules.pins=[{item_id: none, rank: 1}]"], ConfigError, "item_id=none is no item",
                "first_date"),
    }  # fmt: skip


@pytest.mark.parametrize(
    "name", ["no table", "no ids", "twice", "torn", "no column", "none left", "pin"]
)
def test_wrong_facts_and_names_say_what_to_do(night: Night, name: str, tmp_path: Path) -> None:
    overrides, kind, what, do = bad_rules(tmp_path)[name]
    rules = load_settings(None, overrides).rules
    context = night.context(rules=rules)
    versions = night.versions
    with pytest.raises(kind) as caught:
        read_rules(context.lake, RuleTables(versions.items, versions.users), DAY)
    assert what in caught.value.what
    assert do in caught.value.do


def test_facts_are_read_from_delta_and_parquet_with_their_types(
    night: Night, tmp_path: Path
) -> None:
    spark, names = night.lake.spark, sorted(names_of(night).items())
    rows = [
        (names[0][1], 3, True, date(2026, 1, 9), ["New York", "Rio"]),
        (f" {names[1][1]} ", None, False, None, []),
    ]
    frame = spark.createDataFrame(
        rows, "item_id string, stock int, sold boolean, since date, cities array<string>"
    ).withColumn("at", F.to_timestamp(F.lit("2026-01-09 10:00:00")))
    columns = ("stock", "sold", "since", "cities", "at", "category")
    version = night.context().written("build_silver", schemas.SILVER_ITEMS)
    for kind in ("delta", "parquet"):
        frame.write.format(kind).save(f"{tmp_path}/{kind}-{DAY}")
        rules = replace_path(night, f"{tmp_path}/{kind}-{{date}}")
        table = read_facts(night.lake, rules, columns, version, DAY).to_pylist()
        found = {row.pop("item_idx"): row for row in table}
        category = {row: night.facts[name]["category"] for row, name in names}
        assert len(found) == len(names)
        assert found[names[0][0]] == {
            "stock": "3", "sold": "true", "since": "2026-01-09", "cities": "New York\x1fRio",
            "at": "2026-01-09 10:00:00", "category": category[names[0][0]],
        }  # fmt: skip
        assert (found[names[1][0]]["stock"], found[names[1][0]]["sold"]) == (None, "false")
        assert found[names[2][0]]["stock"] is None


def replace_path(night: Night, path: str) -> Any:
    return night.lake.settings.rules.model_copy(update={"items_path": path})


def test_a_night_run_again_has_nothing_to_do(night: Night) -> None:
    context = replace(night.context(), say=night.said.append)
    before = len(night.said)
    run_night(context, ALL_STEPS)
    assert all("done before" in line for line in night.said[before:])
