"""Nights of approximate lists: published as exact ones are, and never mixed with them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from recsys.bundle import BundleInfo, save_bundle
from recsys.errors import ConfigError
from recsys.models import MatrixFactorization, MatrixFactorizationConfig
from recsys.score.carry import ScoredNight
from recsys.score.checks import check_lists
from tests.ranked_users import HISTORIES, KNOWN, USERS
from tests.spark.scored_again import TODAY, as_earlier, score
from tests.spark.scored_lists import NIGHT
from tests.spark.scored_lists import Scored as Lists

pytestmark = [pytest.mark.spark, pytest.mark.long]

APPROXIMATE = ("score.method=approximate", "score.recall=0.8")


def test_a_night_of_approximate_lists(scored: Lists) -> None:
    done, found, said = score(scored, scored.versions, "7", as_earlier(scored), TODAY, *APPROXIMATE)
    assert "lists are approximate: " in said[1]
    assert "model, candidates or settings are others" in said[2], "exact lists are not carried"
    details = done.search.details
    assert details["method"] == "approximate"
    assert 1.0 >= float(details["recall"]) >= float(details["recall at least"]) >= 0.8
    assert check_lists(scored.lake, done.commit.version, scored.versions, TODAY) == USERS
    same = 0
    for user, entries in scored.lists.items():
        seen = {f"i{item}" for item in HISTORIES.get(int(user[1:]), ([], []))[1]}
        items = [entry["item_id"] for entry in found[user]]
        assert not seen & set(items)
        assert len(items) == len(entries)
        same += len(set(items) & {entry["item_id"] for entry in entries})
    assert same >= 0.8 * sum(map(len, scored.lists.values()))

    tomorrow = ScoredNight(TODAY, scored.versions, done.commit.version, done.basis, TODAY)
    later = TODAY.replace(day=TODAY.day + 1)
    again, _, said = score(scored, scored.versions, "7", tomorrow, later, *APPROXIMATE)
    assert again.basis == done.basis
    assert again.carried > USERS // 2
    back, _, said = score(scored, scored.versions, "7", tomorrow, later)
    assert (back.carried, back.basis) == (0, scored.basis)
    assert "model, candidates or settings are others" in said[-1]


def test_what_cannot_be_measured_is_ranked_exactly(scored: Lists) -> None:
    given = (scored, scored.versions, "7", None, TODAY)
    done, found, said = score(*given, "score.method=approximate")
    assert "26 users whom the model knows are too few to measure a recall of 0.99" in said[1]
    assert done.search.details == {"method": "exact"}
    assert (done.basis, found) == (scored.basis, scored.lists)
    done, found, said = score(*given, "score.method=auto", "score.recall=0.8")
    assert "exact lists for all users take 0 s (forecast): no index is worth" in said[1]
    assert (done.basis, found) == (scored.basis, scored.lists)


def test_a_model_without_item_vectors(scored: Lists, tmp_path: Path) -> None:
    config = MatrixFactorizationConfig(num_users=USERS, num_items=KNOWN, dims=4)
    model = MatrixFactorization(config).eval()
    save_bundle(tmp_path / "bundle", model, BundleInfo(str(NIGHT), "f", KNOWN, 4))
    other = replace(scored, bundle=tmp_path / "bundle")
    with pytest.raises(ConfigError, match="item vectors, which a MatrixFactorization has not"):
        score(other, scored.versions, "8", None, TODAY, *APPROXIMATE)
    done, found, said = score(other, scored.versions, "8", None, TODAY, "score.method=auto")
    assert "lists are exact: the model has no item vectors" in said[1]
    assert len(found) == USERS
    assert done.search.details == {"method": "exact"}
