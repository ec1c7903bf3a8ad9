"""A night whose lists obey rules, from a table of facts to what is live, evaluated and proved."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys import schemas
from recsys.cli.summary import print_summary
from recsys.config import load_settings
from recsys.errors import ConfigError, InputError, PublishError, RecsysError
from recsys.generate import generate_log
from recsys.lake.formats import load_format
from recsys.lake.operations import StageRun
from recsys.lake.publish import live_lists
from recsys.lake.rule_tables import read_facts
from recsys.lake.tables import Lake
from recsys.score import evaluation
from recsys.score.carry import ScoredNight
from recsys.score.checks import check_lists
from recsys.score.job import Scored, score_users
from recsys.score.rules import RuleTables, read_rules
from recsys.steps.context import Context
from recsys.steps.lists import SCORE_USERS, versions_of
from recsys.steps.night import ALL_STEPS
from recsys.steps.runner import fingerprint_of, run_night
from recsys.steps.tracking import open_tracking
from tests.e2e.small_night import SETTINGS

pytestmark = pytest.mark.spark

DAY = date(2026, 1, 3)
N, CAP = 10, 3
CHANGES = (
    "train.launcher=single", "train.ranks=1", "train.max_epochs=1", "privacy.pseudonyms=false",
    "privacy.user_attributes=[segment]",
)  # fmt: skip
RULES: dict[str, Any] = {
    "filters": [
        {"column": "stock", "op": "at_least", "value": 1, "missing": "drop"},
        {"column": "available_from", "op": "at_most", "value": "$run_date", "missing": "keep"},
        {"column": "not_for", "op": "not_contains", "value": "$user.segment", "missing": "keep",
         "unknown_user": "drop"},
    ],
    "rerank": {
        "candidates": 30, "diversity": 0.3, "freshness": 0.2, "freshness_half_life_days": 2,
        "max_per_category": [{"column": "category", "cap": CAP}],
    },
}  # fmt: skip


@dataclass(frozen=True)
class Night:
    lake: Lake
    runs: dict[str, StageRun]
    said: list[str]
    evaluated: dict[str, tuple[Any, evaluation.Cases]]
    facts: dict[str, dict[str, str]]
    segments: dict[str, str]
    pins: dict[str, int]

    def context(self, **changes: Any) -> Context:
        settings = self.lake.settings.model_copy(update=changes)
        lake = Lake(self.lake.spark, settings)
        return Context(settings, load_format("generated"), DAY, lake, runs=dict(self.runs))

    def may_have(self, user: str) -> set[str]:
        return {
            item
            for item, own in self.facts.items()
            if own["stock"] not in ("", "0")
            and self.segments[user] not in own["not_for"].split("|")
        }


def read_tsv(path: Path) -> list[dict[str, str]]:
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


def write_facts(folder: Path, items: list[dict[str, str]]) -> dict[str, dict[str, str]]:
    """Every fifth item is sold out, one is not known; every fourth is not for two segments."""
    facts = {
        row["item"]: {
            "item_id": row["item"], "stock": str(place % 5), "category": row["category"],
            "not_for": "s1|s2" if place % 4 == 1 else "",
        }
        for place, row in enumerate(items)
    }  # fmt: skip
    facts[items[3]["item"]]["stock"] = ""
    lines = ["item_id\tstock\tnot_for"]
    lines += [f"{own['item_id']}\t{own['stock']}\t{own['not_for']}" for own in facts.values()]
    (folder / f"facts-{DAY}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return facts


@pytest.fixture(scope="module")
def night(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Night:
    folder = tmp_path_factory.mktemp("rules")
    conf = folder / "small.yaml"
    conf.write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    generate_log(spark, load_settings(conf).generate, f"{folder}/log", DAY)
    items, users = (read_tsv(folder / f"log/{name}.tsv") for name in ("items", "users"))
    facts = write_facts(folder, items)
    # Both are sold, and known from the first day on.
    pins = dict(zip(list(facts)[11:13], (2, 5), strict=True))
    first, second = pins
    rules = {
        **RULES,
        "items_path": f"{folder}/facts-{{date}}.tsv",
        "pins": [
            {"item_id": first, "rank": 2, "first_date": DAY},
            {"item_id": second, "rank": 5,
             "users": {"attribute": "segment", "values": ["s0", "s3"]}},
            {"item_id": "not yet known", "rank": 1, "first_date": DAY + timedelta(days=1)},
        ],
    }  # fmt: skip
    conf.write_text(yaml.safe_dump({**SETTINGS, "rules": rules}), encoding="utf-8")
    places = (f"lake.root={folder}/lake", f"input.path={folder}/log")
    settings = load_settings(conf, [*CHANGES, *places])
    segments = {row["user"]: row["segment"] for row in users}
    made = Night(Lake(spark, settings), {}, [], {}, facts, segments, pins)
    report = evaluation._report

    def keep(name: str, items: Any, cases: evaluation.Cases, *others: Any) -> evaluation.Report:
        made.evaluated[name] = (items, cases)
        return report(name, items, cases, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "_report", keep)
        context = Context(settings, load_format("generated"), DAY, made.lake, say=made.said.append)
        made.runs.update(run_night(context, ALL_STEPS))
    return made


def check_entries(night: Night, user: str, items: list[str], left: set[str], n: int) -> None:
    """A list as the rules say, by the files that the night has read.

    Args:
        left: what somebody had and this user has not.
    """
    may_have = night.may_have(user) & left
    assert len(set(items)) == len(items) == min(n, len(may_have))
    assert set(items) <= may_have
    counts = Counter(night.facts[item]["category"] for item in items)
    if max(counts.values()) > CAP:
        rest = {night.facts[item]["category"] for item in may_have - set(items)}
        assert all(counts[category] >= CAP for category in rest)
    first, second = night.pins
    for item, holds in ((first, True), (second, night.segments[user] in ("s0", "s3"))):
        if holds and item in may_have:
            assert items.index(item) + 1 == night.pins[item]


def names_of(night: Night) -> dict[int, str]:
    rows = night.lake.read(schemas.SILVER_ITEMS).select("item_idx", "item_id").collect()
    return {row[0]: row[1] for row in rows}


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
    context, lake = night.context(), night.lake
    versions = versions_of(context)
    tables = RuleTables(versions.items, versions.users, versions.user_attributes)
    rules = read_rules(lake, tables, DAY)
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


def test_lists_are_carried_over_where_the_rules_are_as_before(night: Night) -> None:
    rules = night.lake.settings.rules.model_copy(update={"pins": ()})
    context = night.context(rules=rules)
    versions = versions_of(context)
    tables = RuleTables(versions.items, versions.users, versions.user_attributes)
    kept = read_rules(context.lake, tables, DAY)
    bundle = open_tracking(context.settings).bundle_of("1")
    days = [DAY + timedelta(days=n) for n in (1, 2)]

    def score(day: date, earlier: ScoredNight | None) -> Scored:
        return score_users(context.lake, bundle, "1", versions, day, lambda _: None, earlier, kept)

    first = score(days[0], None)
    earlier = ScoredNight(days[0], versions, first.commit.version, first.basis, days[0])
    second = score(days[1], earlier)
    assert 0 < second.carried < len(night.segments) + 1
    found = [
        {row["user_id"]: row["recommendations"] for row in rows.collect()}
        for rows in (
            context.lake.read(schemas.GOLD_TOP_N).where(F.col("run_date") == F.lit(day))
            for day in days
        )
    ]
    assert found[0] == found[1]
    assert check_lists(context.lake, second.commit.version, versions, days[1], kept) == len(
        found[0]
    )


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
    versions = versions_of(context)
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
