"""Nights that score only what changed end in the lists of full ones."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest

from recsys import schemas
from recsys.score.carry import ScoredNight
from recsys.score.users import Versions
from tests.ranked_users import HISTORIES, ITEMS, USERS, N, popularity
from tests.spark.scored_again import TODAY, as_earlier, score
from tests.spark.scored_lists import NIGHT, sequence_row
from tests.spark.scored_lists import Scored as Lists

pytestmark = [pytest.mark.spark, pytest.mark.long]


def change_some(lists: Lists) -> Versions:
    """The next day: u1 and u2 did something, u31 is new, the fallback's items have moved."""
    lake, histories = lists.lake, dict(HISTORIES)
    for user in (1, 2):
        items, seen = histories[user]
        histories[user] = ([*items, 5], sorted({*seen, 5}))
    histories[USERS + 1] = ([1, 2], [1, 2])
    rows = [sequence_row(user, *history) for user, history in histories.items()]
    known = [(f"u{n}", n, NIGHT, NIGHT if n <= USERS else TODAY) for n in range(1, USERS + 2)]
    weights = popularity()[::-1]
    days = [(item, TODAY, 1, int(weights[item]) + 1) for item in range(1, ITEMS + 1) if item != 9]

    def write(table: schemas.Table, rows: list[Any]) -> int:
        return lake.replace(table, lake.spark.createDataFrame(rows, table.ddl)).version

    return replace(
        lists.versions,
        sequences=write(schemas.GOLD_SEQUENCES, rows),
        users=write(schemas.SILVER_USERS, known),
        item_stats=write(schemas.GOLD_ITEM_STATS, days),
    )


def test_what_did_not_change_is_carried_over_and_equals_a_full_night(scored: Lists) -> None:
    today = change_some(scored)
    full, wanted, _ = score(scored, today)
    assert (full.carried, full.full_night) == (0, TODAY)
    some, found, said = score(
        scored, today, "7", as_earlier(scored), TODAY, "score.commits=3", "score.partitions=6"
    )
    model_alone = [
        user
        for user, entries in scored.lists.items()
        if len(entries) == N and {entry["reason"] for entry in entries} == {"model"}
    ]
    assert some.carried == len(set(model_alone) - {"u1", "u2"}) > USERS // 2
    assert some.full_night == NIGHT
    assert some.basis == full.basis == scored.basis
    assert f"{some.carried} lists are carried over from {NIGHT}" in said[-1]
    assert sorted(found) == sorted(wanted) == sorted(f"u{n}" for n in range(1, USERS + 2))
    for user, entries in wanted.items():
        # A user is encoded among others: that may move the last bits of the terms of a score, which
        # are some units where the score itself is nearly 0.
        scores = [entry.pop("score") for entry in entries]
        found_scores = [entry.pop("score") for entry in found[user]]
        assert found_scores == pytest.approx(scores, rel=1e-5, abs=1e-5)
        assert found[user] == entries
    assert wanted["u1"] != [{**e, "score": 0} for e in scored.lists["u1"]]


def test_everybody_is_scored_where_a_list_could_be_wrong(scored: Lists) -> None:
    earlier, versions = as_earlier(scored), scored.versions

    def reason(earlier: ScoredNight, day: date = TODAY, *overrides: str, model: str = "7") -> str:
        done, _, said = score(scored, versions, model, earlier, day, *overrides)
        assert (done.carried, done.full_night) == (0, day)
        return said[-1]

    others = "model, candidates or settings are others"
    assert others in reason(earlier, model="8")
    assert others in reason(earlier, TODAY, "score.n=5")
    late = NIGHT + timedelta(days=7)
    assert f"the last full night was {NIGHT}" in reason(earlier, late)
    assert "full_every_days=1" in reason(earlier, TODAY, "score.full_every_days=1")
    gone = replace(earlier, versions=replace(versions, sequences=-1))
    assert f"gold/sequences of {NIGHT} is gone" in reason(gone)
