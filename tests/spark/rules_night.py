"""A small night whose lists obey rules, and what a list of it must be."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyspark.sql import SparkSession

from recsys import schemas
from recsys.config import load_settings
from recsys.generate import generate_log
from recsys.lake.formats import load_format
from recsys.lake.operations import StageRun
from recsys.lake.tables import Lake
from recsys.score import evaluation
from recsys.score.rules import RuleTables
from recsys.score.users import Versions
from recsys.steps.context import Context
from recsys.steps.lists import versions_of
from recsys.steps.night import ALL_STEPS
from recsys.steps.runner import run_night
from tests.e2e.small_night import SETTINGS

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

    @property
    def versions(self) -> Versions:
        """What the lists were made from."""
        return versions_of(self.context())

    @property
    def rule_tables(self) -> RuleTables:
        versions = self.versions
        return RuleTables(versions.items, versions.users, versions.user_attributes)

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


def run_rules_night(spark: SparkSession, folder: Path) -> Night:
    """A small night under ``RULES`` and three pins; takes a minute."""
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
