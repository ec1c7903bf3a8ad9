"""Pairs of user and item, from a lake to lists: what is in them, and what models make of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from recsys import schemas
from recsys.bundle import load_for_scoring
from recsys.errors import LakeError
from recsys.lake.examples import write_examples, write_new_ratings
from recsys.lake.gold import build_gold
from recsys.lake.pinning import pin_training_table
from recsys.lake.popularity import read_popularity
from recsys.lake.sequences import holdout_cutoff
from recsys.lake.tables import Lake
from recsys.score import evaluation
from recsys.score.checks import check_lists
from recsys.score.job import score_users
from recsys.score.users import Versions
from recsys.train.job import TrainingJob
from recsys.train.launch import launch_training
from tests.spark.gold_events import NIGHT, SMALL, Event
from tests.spark.test_gold import write_silver

pytestmark = pytest.mark.spark

USERS, ITEMS = 24, 20
RATING = schemas.EVENT_TYPE_CODES["rating"]
TRAIN = (
    "train.launcher=single", "train.ranks=1", "train.max_epochs=2", "train.per_rank_batch_size=16",
    "gold.validation_share=0.2", "gold.min_row_groups=4", "model.dims=8", "score.partitions=2",
    "evaluate.min_history_events=1", "score.n=5",
)  # fmt: skip
SILENT = USERS + 1  # did nothing before the hold-out
GOLD = (schemas.GOLD_TRAINING_SEQUENCES, schemas.GOLD_RATINGS)


def log() -> tuple[list[Event], dict[int, float]]:
    """Everybody rates some items, one of them twice and one more in the hold-out; and views one."""
    events, ratings = [], {}
    for user in range(1, USERS + 1):
        rated = [1 + (user * n) % ITEMS for n in range(2, 9)]
        places = [*rated, rated[0]]
        for n, item in enumerate(places):
            ratings[len(events)] = float(1 + (user + n) % 5)
            events.append(Event(user, item, -90_000.0 * (len(places) - n) - user, RATING))
        events.append(Event(user, ITEMS - user % 2, -user, 1))
    for user in (*range(1, USERS + 1), SILENT):
        ratings[len(events)] = 2.5  # a rating that nobody else gives
        events.append(Event(user, 1 + (user * 11) % ITEMS, 100, RATING))
    return events, ratings


def versions_of(lake: Lake) -> dict[str, int]:
    return {table.name: lake.version(table) for table in GOLD}


def read_files(lake: Lake, version: int) -> list[dict[str, Any]]:
    """The rows of all files in their order, each file with its split and bucket."""
    found = []
    for file in pin_training_table(lake, version, schemas.GOLD_TRAINING_EXAMPLES).files:
        content = pq.ParquetFile(file.url.removeprefix("file://"))
        assert content.metadata.num_row_groups == 1
        rows = content.read().to_pylist()
        assert len(rows) == file.rows
        found += [{**row, "split": file.split, "bucket": file.bucket} for row in rows]
    return found


@pytest.fixture
def lake(make_lake: Callable[..., Lake]) -> Lake:
    lake = make_lake(*SMALL, *TRAIN)
    write_silver(lake, *log(), users=SILENT, items=ITEMS)
    build_gold(lake, NIGHT)
    return lake


def check_pairs(rows: list[dict[str, Any]]) -> None:
    """One event each, unique by user and by number; a user's oldest trains."""
    assert {(row["bucket"], row["context"], len(row["items"])) for row in rows} == {(1, 0, 1)}
    numbers: dict[int, list[tuple[int, int, str]]] = {}
    for row in rows:
        event = (row["window"], row["event_times"][0], row["split"])
        numbers.setdefault(row["user_idx"], []).append(event)
    for of_user in numbers.values():
        ordered = sorted(of_user)
        assert [number for number, _, _ in ordered] == list(range(len(ordered)))
        assert [time for _, time, _ in ordered] == sorted(time for _, time, _ in ordered)
        assert ordered[0][2] == "train"
    splits = [row["split"] for row in rows]
    assert 0 < splits.count("validation") < len(splits) / 2


def test_ratings_are_the_latest_before_the_hold_out(lake: Lake) -> None:
    commit = write_examples(lake, "matrix_factorization", "rating", versions_of(lake), NIGHT)
    assert commit is not None
    rows = read_files(lake, commit.version)
    check_pairs(rows)
    events, ratings = log()
    expected: dict[tuple[int, int], float] = {}
    for place, event in enumerate(events):
        if event.at < 0 and place in ratings:
            expected[event.user, event.item] = ratings[place]  # the log is in order of time
    found = {(row["user_idx"], row["items"][0]): row["labels"][0] for row in rows}
    assert found == expected
    assert len(rows) == commit.rows == len(found)
    assert 2.5 not in found.values()
    assert SILENT not in {user for user, _ in found}
    assert {row["event_types"][0] for row in rows} == {RATING}
    # Again: other files with the same content in the same order.
    again = write_examples(lake, "matrix_factorization", "rating", versions_of(lake), NIGHT)
    assert again is not None
    assert again.version > commit.version
    assert read_files(lake, again.version) == rows
    assert len(pin_training_table(lake, again.version, schemas.GOLD_TRAINING_EXAMPLES).files) >= 4


def test_interactions_are_different_items_before_the_hold_out(lake: Lake) -> None:
    commit = write_examples(lake, "collaborative_network", "interaction", versions_of(lake), NIGHT)
    assert commit is not None
    rows = read_files(lake, commit.version)
    check_pairs(rows)
    expected = {(event.user, event.item) for event in log()[0] if event.at < 0}
    assert {(row["user_idx"], row["items"][0]) for row in rows} == expected
    assert len(rows) == len(expected)
    assert {row["labels"][0] for row in rows} == {1.0}
    assert write_examples(lake, "transformer", "next_item", versions_of(lake), NIGHT) is None


def test_a_log_without_ratings_says_what_to_do(make_lake: Callable[..., Lake]) -> None:
    lake = make_lake(*SMALL)
    events = [Event(user, item, -10.0 * item) for user in (1, 2) for item in (1, 2, 3)]
    # One rating, but in the hold-out.
    write_silver(lake, [*events, Event(1, 4, 5, RATING)], {6: 4.0})
    build_gold(lake, NIGHT)
    with pytest.raises(LakeError, match="no rating before the hold-out") as caught:
        write_examples(lake, "matrix_factorization", "rating", versions_of(lake), NIGHT)
    assert "model.kind transformer or collaborative_network" in caught.value.do
    assert caught.value.where == lake.path(schemas.GOLD_RATINGS)


@pytest.mark.parametrize(
    "kind",
    ["matrix_factorization", pytest.param("collaborative_network", marks=pytest.mark.long)],
)
def test_a_model_of_pairs_trains_and_makes_lists_for_everybody(
    lake: Lake, make_lake: Callable[..., Lake], tmp_path: Path, kind: str
) -> None:
    settings = make_lake(*SMALL, *TRAIN, f"model.kind={kind}").settings
    commit = write_examples(lake, settings.model.kind, settings.task, versions_of(lake), NIGHT)
    assert commit is not None
    table = pin_training_table(lake, commit.version, schemas.GOLD_TRAINING_EXAMPLES)
    bundle = tmp_path / "bundle"
    job = TrainingJob(
        settings, str(NIGHT), table, ITEMS, "f" * 16, str(tmp_path / "work"), str(bundle),
        num_users=SILENT,
    )  # fmt: skip
    result = launch_training(job)
    trained = [file.rows for file in table.files if file.split == "train"]
    assert result.events == 2 * sum(trained)

    tables = (schemas.GOLD_SEQUENCES, schemas.SILVER_USERS, schemas.SILVER_ITEMS)
    stats = lake.version(schemas.GOLD_ITEM_STATS)
    versions = Versions(*[lake.version(t) for t in tables], stats)
    lists = score_users(lake, bundle, "1", versions, NIGHT).commit
    assert check_lists(lake, lists.version, versions, NIGHT) == SILENT
    rows = lake.read(schemas.GOLD_TOP_N, lists.version).collect()
    reasons = {row["user_id"]: {e["reason"] for e in row["recommendations"]} for row in rows}
    assert {len(row["recommendations"]) for row in rows} == {5}
    # The last user has an event, so a sequence, but none that the model was trained on.
    assert reasons.pop(f"u{SILENT}") == {"popular"}
    assert set(map(frozenset, reasons.values())) == {frozenset({"model"})}

    holdout = lake.version(schemas.GOLD_HOLDOUT)
    cases = evaluation.load_cases(lake, holdout, settings.evaluate)
    popularity = read_popularity(lake, stats, ITEMS, NIGHT, 30)
    model = load_for_scoring(bundle)
    report = evaluation.evaluate_model("model", model, cases, popularity, settings.evaluate)
    assert len(report.per_user) == len(cases.user_idx) > 0
    assert np.isfinite(report.means[evaluation.MAIN_METRIC])


def test_an_update_learns_what_is_new_and_is_validated_by_the_month_before(lake: Lake) -> None:
    cutoff = holdout_cutoff(lake.settings.gold, NIGHT)
    commit = write_new_ratings(lake, versions_of(lake), NIGHT, cutoff - timedelta(days=2))
    assert commit is not None
    rows = read_files(lake, commit.version)
    # Of the last two days everybody has one rating, which replaces that of the same item before.
    newest = {(user, 1 + (user * 2) % ITEMS): 1.0 + (user + 7) % 5 for user in range(1, USERS + 1)}
    pairs = {(row["user_idx"], row["items"][0]): row for row in rows}
    assert len(pairs) == len(rows)
    assert newest.keys() <= pairs.keys()
    assert all(pairs[pair]["labels"] == [rating] for pair, rating in newest.items())
    for pair, row in pairs.items():
        assert pair in newest or row["split"] == "validation"
    assert any(pair not in newest for pair in pairs)
    everything = write_examples(lake, "matrix_factorization", "rating", versions_of(lake), NIGHT)
    assert everything is not None
    validates = {
        (row["user_idx"], row["items"][0])
        for row in read_files(lake, everything.version)
        if row["split"] == "validation"
    }
    assert {pair for pair, row in pairs.items() if row["split"] == "validation"} == validates
    assert write_new_ratings(lake, versions_of(lake), NIGHT, cutoff) is None
