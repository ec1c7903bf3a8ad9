"""A night with two towers: attributes from files to lists, and out again when users are erased."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import functions as F

from recsys import schemas
from recsys.config import load_settings
from recsys.lake.erasure import erase_rows, find_users
from recsys.lake.formats import LogFormat
from recsys.lake.pseudonyms import load_key, pseudonym
from recsys.lake.tables import Lake
from recsys.lake.user_attributes import load_user_attributes, write_user_attributes
from recsys.score.job import score_users
from recsys.score.users import Versions
from recsys.steps.context import Context
from recsys.steps.etl import BUILD_GOLD, BUILD_SILVER, INGEST
from recsys.steps.evaluation import EVALUATE
from recsys.steps.lists import SCORE_USERS
from recsys.steps.runner import run_night
from recsys.steps.training import TRAIN
from tests.spark.etl_nights import DAYS
from tests.spark.tiny_logs import event, log_format, write_json

pytestmark = [pytest.mark.spark, pytest.mark.long]

# XXH64 (seed 42) of segment=a, segment=b and of kind=a, kind=b, modulo 64; users' count from 1.
USER_CODES, ITEM_CODES = {37 + 1, 7 + 1}, {15, 19}
KINDS, USERS, ITEMS = "ab", 24, 8
FORMAT: LogFormat = log_format(
    layout="daily",
    files="dt={date}/*.json",
    items={"file": "items.tsv", "item_id": "item", "attributes": {"kind": "kind"}},
    users={"file": "users.tsv", "user_id": "user", "attributes": {"segment": "segment"}},
)
SETTINGS = (
    "gold.sequence_length=8", "gold.length_buckets=[4, 8]", "gold.min_row_groups=4",
    "gold.validation_share=0.3", "model.kind=two_tower", "model.dims=16", "model.heads=2",
    "model.attribute_buckets=64", "model.id_dropout=0.3", "train.launcher=single",
    "train.ranks=1", "train.max_epochs=25", "train.patience=25", "train.learning_rate=0.01",
    "train.per_rank_batch_size=8", "train.warmup_steps=5", "train.exclude_own_items=true",
    "train.recency_half_life_days=null",
    "evaluate.min_history_events=1", "evaluate.als.rank=4", "evaluate.als.iterations=2",
    "score.n=6", "score.partitions=2", "ingest.max_reject_share=1",
)  # fmt: skip


@dataclass(frozen=True)
class Nights:
    lake: Lake
    first: Context
    folder: Path

    def user_id(self, raw: str) -> str:
        return pseudonym(load_key(self.lake.settings), raw)

    def lists(self, version: int | None = None) -> dict[str, list[tuple[str, str]]]:
        rows = self.lake.read(schemas.GOLD_TOP_N, version).collect()
        return {
            row["user_id"]: [(e["item_id"], e["reason"]) for e in row["recommendations"]]
            for row in rows
        }


def write_log(folder: Path) -> None:
    """Users of two segments, each of which keeps to its own kind of items.

    New items come on the held-out day (a8, b8) and after the training (a9, b9); quiet-a and quiet-b
    have done nothing yet.
    """
    events: dict[date, list[Any]] = {day: [] for day in DAYS[:3]}
    for user in range(USERS):
        kind = KINDS[user % 2]
        for n in range(6):
            item = f"{kind}{(user // 2 * 3 + n * (1 + user % 3)) % ITEMS}"
            events[DAYS[0]].append(event(f"u{user}", item, f"{DAYS[0]}T{8 + n:02d}:{user:02d}:00Z"))
    for user in range(4):
        kind = KINDS[user % 2]
        for day, item in ((1, f"{kind}8"), (2, f"{kind}9")):
            events[DAYS[day]].append(event(f"u{user}", item, f"{DAYS[day]}T09:0{user}:00Z"))
    for day, records in events.items():
        write_json(folder / f"dt={day}/log.json", records)
    items = [f"{kind}{n}\t{kind}" for kind in KINDS for n in range(10)]
    people = [f"u{user}\t{KINDS[user % 2]}" for user in range(USERS)]
    people += [f"quiet-{kind}\t{kind}" for kind in KINDS]
    (folder / "items.tsv").write_text("\n".join(["item\tkind", *items]))
    (folder / "users.tsv").write_text("\n".join(["user\tsegment", *people]))


@pytest.fixture(scope="module")
def nights(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Nights:
    folder = tmp_path_factory.mktemp("towers")
    write_log(folder / "logs")
    paths = (f"lake.root={folder}/lake", f"input.path={folder}/logs")
    settings = load_settings(None, [*paths, *SETTINGS, "privacy.user_attributes=[segment]"])
    lake = Lake(spark, settings)
    first = Context(settings, FORMAT, DAYS[1], lake, say=lambda _: None)
    run_night(first, (INGEST, BUILD_SILVER, BUILD_GOLD, TRAIN, EVALUATE, SCORE_USERS))
    return Nights(lake, first, folder)


def kinds(entries: list[tuple[str, str]]) -> set[str]:
    return {item[0] for item, _ in entries}


def test_quiet_users_and_new_items_are_known_by_their_attributes(nights: Nights) -> None:
    lists = nights.lists()
    assert len(lists) == USERS + 2
    for kind in KINDS:
        quiet = lists[nights.user_id(f"quiet-{kind}")]
        assert [reason for _, reason in quiet] == ["model"] * 6
        assert kinds(quiet) == {kind}
    # Each has two to four of the first eight left to see, and the new one of the held-out day.
    for user in range(4, USERS):
        own = lists[nights.user_id(f"u{user}")]
        assert {reason for _, reason in own} == {"model"}
        assert own[0][0][0] == KINDS[user % 2]
    new = [item for entries in lists.values() for item, _ in entries if item[1] == "8"]
    assert set(new) == {"a8", "b8"}


def test_links_are_the_words_of_the_attributes(nights: Nights) -> None:
    lake = nights.lake
    told = lake.read(schemas.SILVER_USER_ATTRIBUTES)
    assert told.count() == USERS + 2
    known = [row[0] for row in told.select("attributes").collect()]
    assert all(row in ({"segment": "a"}, {"segment": "b"}) for row in known)
    users = lake.read(schemas.GOLD_USER_LINKS)
    assert users.count() == USERS + 2
    assert {row[0] for row in users.select("linked").distinct().collect()} == USER_CODES
    items = lake.read(schemas.GOLD_ITEM_LINKS)
    assert {row[0] for row in items.select("kind").distinct().collect()} == {"hashed"}
    assert {row[0] for row in items.select("linked").distinct().collect()} == ITEM_CODES


def test_a_model_of_an_earlier_night_knows_items_that_came_after_it(nights: Nights) -> None:
    lake = nights.lake
    second = Context(lake.settings, FORMAT, DAYS[2], lake, say=lambda _: None)
    run_night(second, (INGEST, BUILD_SILVER, BUILD_GOLD))
    bundle = Path(nights.first.done("train").details["bundle"])
    versions = Versions(
        second.written("build_gold", schemas.GOLD_SEQUENCES),
        second.written("build_silver", schemas.SILVER_USERS),
        second.written("build_silver", schemas.SILVER_ITEMS),
        second.written("build_gold", schemas.GOLD_ITEM_STATS),
        second.attributes_version(),
    )
    commit = score_users(lake, bundle, "1", versions, DAYS[2]).commit
    night = lake.read(schemas.GOLD_TOP_N, commit.version).where(F.col("run_date") == DAYS[2])
    lists = {
        row["user_id"]: [e["item_id"] for e in row["recommendations"] if e["reason"] == "model"]
        for row in night.collect()
    }
    # Whose kind it is has it before anything of the other kind.
    told = 0
    for user in range(4, USERS):
        kind, other = KINDS[user % 2], KINDS[1 - user % 2]
        items = lists[nights.user_id(f"u{user}")]
        own = [item for item in items if item[0] == kind]
        assert f"{other}9" not in items[: len(own)]
        told += f"{kind}9" in own
    assert told > 0.8 * (USERS - 4)


def test_what_is_known_of_users_goes_with_them_and_with_the_setting(nights: Nights) -> None:
    lake = nights.lake
    gone = ["u1", "quiet-b"]
    users = find_users(lake, gone)
    assert len(users.indices) == 2
    deleted = erase_rows(lake, FORMAT, users, lambda _: None)
    assert deleted["silver/user_attributes"] == deleted["gold/user_links"] == 2
    assert (
        not lake.read(schemas.GOLD_USER_LINKS).where(F.col("user_idx").isin(*users.indices)).count()
    )

    privacy = lake.settings.privacy.model_copy(update={"user_attributes": ()})
    settings = lake.settings.model_copy(update={"privacy": privacy})
    off = Lake(lake.spark, settings)
    write_user_attributes(off, load_user_attributes(off, FORMAT, settings.input.path, None))
    for table in (schemas.SILVER_USER_ATTRIBUTES, schemas.GOLD_USER_LINKS):
        assert off.read(table).isEmpty()
