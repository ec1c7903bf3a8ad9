"""Lists: what the ranker makes of a history, proof before publishing, and what stays live."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyspark.sql import SparkSession

from recsys import schemas
from recsys.bundle import BundleInfo, save_bundle
from recsys.config import load_settings
from recsys.errors import PublishError
from recsys.lake.publish import Published, live, live_lists, publish, roll_back
from recsys.lake.tables import Lake
from recsys.models import SequenceTransformer
from recsys.models.transformer_config import TransformerConfig
from recsys.ranking.histories import Histories, pad_histories
from recsys.score.checks import check_lists
from recsys.score.job import Versions, score_users
from recsys.score.ranker import rank_histories, rank_popular

pytestmark = pytest.mark.spark

NIGHT = date(2026, 3, 5)
KNOWN, ITEMS, USERS, N = 20, 25, 30, 6
SILENT, NEWCOMER, COMPLETE, FAN = 28, 27, 26, 25


def random_model(items: int = KNOWN) -> SequenceTransformer:
    torch.manual_seed(5)
    config = TransformerConfig(
        num_items=items, max_length=4, dims=8, blocks=1, heads=2, dropout=0.1
    )
    model = SequenceTransformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
        model.item_embedding.weight[0] = 0
    return model.eval()


def popularity() -> np.ndarray:
    """Items 3 and 4 are as popular as each other, item 9 was never seen."""
    values = np.arange(ITEMS + 1, dtype=np.float32)
    values[[0, 3, 4, 9]] = 0, 30, 30, 0
    return values


def naive(
    model: SequenceTransformer, history: list[int], seen: list[int], n: int
) -> list[tuple[int, bool]]:
    """One user without batches: (item, from the model?) best first."""
    weights = popularity()
    allowed = {i for i in range(1, ITEMS + 1) if weights[i] > 0} - set(seen)
    known = [item for item in history if item <= KNOWN][-4:]
    found: list[int] = []
    if known:
        with torch.inference_mode():
            scores = (model.encode(torch.tensor([known])) @ model.item_vectors().T)[0]
        ranked = sorted(range(1, KNOWN + 1), key=lambda i: (-float(scores[i]), i))
        found = [item for item in ranked if item in allowed][:n]
    rest = sorted(allowed - set(found), key=lambda i: (-weights[i], i))
    return [(i, True) for i in found] + [(i, False) for i in rest[: n - len(found)]]


def make_histories() -> dict[int, tuple[list[int], list[int]]]:
    """user_idx to (last items, all seen items)."""
    random = np.random.default_rng(3)
    found = {}
    for user in range(1, FAN):
        items = random.integers(1, ITEMS + 1, size=random.integers(1, 9)).tolist()
        found[user] = (items, sorted(set(items) | set(random.integers(1, ITEMS + 1, 3).tolist())))
    found[FAN] = ([1, 2, 3], [i for i in range(1, ITEMS + 1) if i not in (7, 22)])
    found[COMPLETE] = ([5, 6], list(range(1, ITEMS + 1)))
    found[NEWCOMER] = ([21, 22, 25], [21, 22, 25])
    return found


HISTORIES = make_histories()


def test_lists_are_those_of_a_naive_ranker() -> None:
    model = random_model()
    users = sorted(HISTORIES)
    lists = rank_histories(
        model,
        Histories([np.array(HISTORIES[user][0]) for user in users]),
        [np.array(HISTORIES[user][1]) for user in users],
        popularity(),
        N,
    )
    for row, user in enumerate(users):
        expected = naive(model, *HISTORIES[user], N)
        real = lists.items[row] > 0
        got = list(zip(lists.items[row][real], lists.from_model[row][real], strict=True))
        assert got == expected, user
        assert not lists.from_model[row][~real].any()


def test_a_list_does_not_depend_on_who_else_is_in_the_batch() -> None:
    model, users = random_model(), sorted(HISTORIES)
    histories = [np.array(HISTORIES[user][0]) for user in users]
    seen = [np.array(HISTORIES[user][1]) for user in users]
    together = rank_histories(model, Histories(histories), seen, popularity(), N)
    for row in range(len(users)):
        own = Histories([histories[row]])
        alone = rank_histories(model, own, [seen[row]], popularity(), N)
        assert (alone.items[0] == together.items[row]).all()
        finite = np.isfinite(alone.scores[0])
        assert alone.scores[0][finite] == pytest.approx(together.scores[row][finite], abs=1e-4)


def test_what_goes_with_a_skipped_item_is_skipped_with_it() -> None:
    histories = Histories(
        [np.array([9, 1, 2, 3]), np.array([9]), np.array([4, 9, 5])],
        [np.array([0, 3600, 7300, 36_000]), np.array([7200]), np.array([3599, 0, 7200])],
        [np.array([5, 1, 2, 3]), np.array([1]), np.array([4, 2, 1])],
    )
    found = pad_histories(histories, num_items=8, max_length=2)
    assert found["items"].tolist() == [[2, 3], [0, 0], [4, 5]]
    assert found["hours"].tolist() == [[2, 10], [0, 0], [0, 2]]
    assert found["event_types"].tolist() == [[2, 3], [0, 0], [4, 1]]
    assert set(pad_histories(Histories(histories.items), 8, 2)) == {"items"}


def test_nobody_to_rank_for_is_no_error() -> None:
    lists = rank_histories(random_model(), Histories([]), [], popularity(), N)
    assert lists.items.shape == (0, N)


def test_popular_items_tie_by_the_lower_index_and_leave_out_seen_and_dead_ones() -> None:
    lists = rank_popular(popularity(), [np.array([25]), np.arange(1, 24)], 5)
    assert lists.items.tolist() == [[3, 4, 24, 23, 22], [25, 24, 0, 0, 0]]


@dataclass(frozen=True)
class Scored:
    lake: Lake
    bundle: Path
    versions: Versions
    top_n: int
    lists: dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def scored(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Scored:
    """Thirty users scored once: of these, u28 to u30 never did anything."""
    folder = tmp_path_factory.mktemp("score")
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
    sequences = write(
        schemas.GOLD_SEQUENCES,
        [(u, f"u{u}", h, [1] * len(h), [0] * len(h), len(h), seen, 8 if len(h) < 9 else 16,
          [], 0, [], []) for u, (h, seen) in HISTORIES.items()],
    )  # fmt: skip
    days = [(i, NIGHT, 1, int(w)) for i, w in enumerate(popularity()) if w > 0]
    stats = write(schemas.GOLD_ITEM_STATS, days)
    bundle = folder / "bundle"
    save_bundle(bundle, random_model(), BundleInfo(str(NIGHT), "f", KNOWN, 4))
    versions = Versions(sequences, users, items, stats)
    commit = score_users(lake, bundle, "7", versions, NIGHT, "first")
    assert commit.rows == USERS
    rows = lake.read(schemas.GOLD_TOP_N, commit.version).collect()
    assert {(row["run_date"], row["model_version"]) for row in rows} == {(NIGHT, "7")}
    lists = {r["user_id"]: [entry.asDict() for entry in r["recommendations"]] for r in rows}
    return Scored(lake, bundle, versions, commit.version, lists)


def reasons(scored: Scored, user: int) -> list[str]:
    return [entry["reason"] for entry in scored.lists[f"u{user}"]]


def test_spark_writes_the_lists_of_the_naive_ranker_for_every_user(scored: Scored) -> None:
    model = random_model()
    assert sorted(scored.lists) == sorted(f"u{n}" for n in range(1, USERS + 1))
    for user, (history, seen) in HISTORIES.items():
        expected = naive(model, history, seen, N)
        entries = scored.lists[f"u{user}"]
        assert [entry["item_id"] for entry in entries] == [f"i{item}" for item, _ in expected]
        assert [entry["rank"] for entry in entries] == list(range(1, len(expected) + 1))
        wanted = ["model" if from_model else "popular" for _, from_model in expected]
        assert reasons(scored, user) == wanted
        assert not {f"i{item}" for item in seen} & {entry["item_id"] for entry in entries}


def test_silent_users_and_users_of_new_items_get_the_popular_fallback(scored: Scored) -> None:
    best = [f"i{item}" for item in (3, 4, 25, 24, 23, 22)]
    for user in (SILENT, 29, 30):
        assert [entry["item_id"] for entry in scored.lists[f"u{user}"]] == best
        assert reasons(scored, user) == ["popular"] * N
    assert reasons(scored, NEWCOMER) == ["popular"] * N


def test_lists_are_short_only_where_nearly_everything_is_seen(scored: Scored) -> None:
    assert [entry["item_id"] for entry in scored.lists[f"u{FAN}"]] == ["i7", "i22"]
    assert reasons(scored, FAN) == ["model", "popular"]
    assert scored.lists[f"u{COMPLETE}"] == []
    short = [user for user, entries in scored.lists.items() if len(entries) < N]
    assert sorted(short) == [f"u{FAN}", f"u{COMPLETE}"]


def test_good_lists_pass_the_checks(scored: Scored) -> None:
    assert check_lists(scored.lake, scored.top_n, scored.versions, NIGHT) == USERS


Row = tuple[str, list[dict[str, Any]] | None]


def change(rows: list[Row], user: str, how: Callable[[list[dict[str, Any]]], Any]) -> list[Row]:
    return [(u, how(entries or []) if u == user else entries) for u, entries in rows]


def with_first(**values: Any) -> Callable[[list[dict[str, Any]]], Any]:
    return lambda entries: [{**entries[0], **values}, *entries[1:]]


SEEN = f"i{HISTORIES[1][1][0]}"
DEFECTS: dict[str, tuple[str, Callable[[list[Row]], list[Row]]]] = {
    "missing user": ("has no list", lambda rows: [row for row in rows if row[0] != "u30"]),
    "unknown user": ("is not a known user", lambda rows: [*rows, ("stranger", rows[0][1])]),
    "two lists": ("has more than one list", lambda rows: [*rows, rows[0]]),
    "short list": ("has too short a list", lambda rows: change(rows, "u1", lambda e: e[:-1])),
    "no list at all": ("has too short a list", lambda rows: change(rows, "u1", lambda e: None)),
    "wrong rank": ("ranks that are not 1..n", lambda rows: change(rows, "u1", with_first(rank=2))),
    "duplicate item": (
        "has an item twice",
        lambda rows: change(rows, "u1", lambda e: [{**e[0], "item_id": e[1]["item_id"]}, *e[1:]]),
    ),
    "NaN score": (
        "score that is no number",
        lambda rows: change(rows, "u1", with_first(score=float("nan"))),
    ),
    "infinite score": (
        "score that is no number",
        lambda rows: change(rows, "u1", with_first(score=float("-inf"))),
    ),
    "seen item": (
        "seen or nobody knows",
        lambda rows: change(rows, "u1", with_first(item_id=SEEN)),
    ),
    "unknown item": (
        "seen or nobody knows",
        lambda rows: change(rows, "u1", with_first(item_id="i99")),
    ),
}
DATES = {name: NIGHT + timedelta(days=at) for at, name in enumerate(DEFECTS, 1)}


@pytest.fixture(scope="module")
def planted(scored: Scored) -> int:
    """One commit with a night of lists for each defect; the table's version."""
    good: list[Row] = sorted(scored.lists.items())
    rows = [
        (DATES[name], user, "8", entries)
        for name, (_, plant) in DEFECTS.items()
        for user, entries in plant(good)
    ]
    table = schemas.GOLD_TOP_N
    return scored.lake.append(table, scored.lake.spark.createDataFrame(rows, table.ddl)).version


@pytest.mark.parametrize("name", list(DEFECTS))
def test_each_planted_defect_is_found(name: str, scored: Scored, planted: int) -> None:
    with pytest.raises(PublishError, match=DEFECTS[name][0]) as caught:
        check_lists(scored.lake, planted, scored.versions, DATES[name])
    assert caught.value.what.startswith("1 lists are wrong: a user ")
    assert caught.value.where == f"{scored.lake.path(schemas.GOLD_TOP_N)} version {planted}"
    assert "the lists published before stay live" in caught.value.do


def test_nothing_is_live_before_the_first_publication(make_lake: Callable[..., Lake]) -> None:
    with pytest.raises(PublishError, match="no lists are published yet"):
        live(make_lake())


def test_publishing_is_idempotent_and_last_good_lists_stay_live(
    scored: Scored, planted: int
) -> None:
    lake, versions = scored.lake, scored.versions
    first = Published(NIGHT, scored.top_n, "recsys", "7", versions.users, versions.items, USERS)
    version = publish(lake, first)
    assert publish(lake, first) == version
    assert lake.version(schemas.OPS_PUBLISHED) == version
    assert live(lake) == first
    # A worse night is written to the same table, and refused: readers do not see it.
    with pytest.raises(PublishError):
        check_lists(lake, planted, versions, DATES["seen item"])
    shown = {row["user_id"]: len(row["recommendations"]) for row in live_lists(lake).collect()}
    assert shown == {user: len(entries) for user, entries in scored.lists.items()}
    # Another night flips all at once; an older one that is published again does not.
    commit = score_users(lake, scored.bundle, "9", versions, NIGHT + timedelta(days=30), "second")
    second = replace(first, run_date=NIGHT + timedelta(days=30), top_n_version=commit.version,
                     model_version="9")  # fmt: skip
    publish(lake, second)
    publish(lake, replace(first, model_version="7b"))
    assert live(lake) == second
    assert {row["model_version"] for row in live_lists(lake).collect()} == {"9"}
    assert lake.read(schemas.OPS_PUBLISHED).count() == 2


def test_rolling_back_makes_an_earlier_night_live_in_one_commit(scored: Scored) -> None:
    lake, versions = scored.lake, scored.versions
    first = Published(NIGHT, scored.top_n, "recsys", "7", versions.users, versions.items, USERS)
    nights = [replace(first, run_date=NIGHT - timedelta(days=back)) for back in (2, 1)]
    for night in (*nights, first):
        publish(lake, night)
    roll_back(lake, NIGHT)  # from what other tests have published
    assert live(lake) == first
    version = lake.version(schemas.OPS_PUBLISHED)
    assert roll_back(lake, NIGHT) == (first, first)  # it is live: nothing is written
    assert lake.version(schemas.OPS_PUBLISHED) == version

    # The lists of these days were never made: what can't be read is not made live.
    with pytest.raises(PublishError, match=f"lists of {nights[1].run_date} can't be read"):
        roll_back(lake)
    with pytest.raises(PublishError, match="is not published") as caught:
        roll_back(lake, NIGHT - timedelta(days=9))
    assert str(nights[0].run_date) in caught.value.do
    assert live(lake) == first

    commit = score_users(lake, scored.bundle, "9", versions, NIGHT + timedelta(days=30), "third")
    second = replace(first, run_date=NIGHT + timedelta(days=30), top_n_version=commit.version,
                     model_version="9")  # fmt: skip
    publish(lake, second)
    version = lake.version(schemas.OPS_PUBLISHED)
    assert roll_back(lake) == (second, first)
    assert lake.version(schemas.OPS_PUBLISHED) == version + 1
    assert {row["model_version"] for row in live_lists(lake).collect()} == {"7"}


def test_the_only_night_can_not_be_rolled_back(
    scored: Scored, make_lake: Callable[..., Lake]
) -> None:
    lake = make_lake()
    publish(lake, Published(NIGHT, scored.top_n, "recsys", "7", 1, 1, USERS))
    with pytest.raises(PublishError, match="is the only night that is published"):
        roll_back(lake)
