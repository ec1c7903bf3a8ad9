"""What is live: one commit makes it so, one takes it back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from recsys import schemas
from recsys.errors import PublishError
from recsys.lake.publish import Published, live, live_lists, publish, roll_back
from recsys.lake.tables import Lake
from recsys.score.checks import check_lists
from recsys.score.job import score_users
from tests.ranked_users import USERS
from tests.spark.scored_lists import (
    NIGHT,
    SEEN,
    Scored,
    add_lists,
    change,
    with_first,
)

pytestmark = pytest.mark.spark


def test_nothing_is_live_before_the_first_publication(make_lake: Callable[..., Lake]) -> None:
    with pytest.raises(PublishError, match="no lists are published yet"):
        live(make_lake())


def test_publishing_is_idempotent_and_last_good_lists_stay_live(scored: Scored) -> None:
    lake, versions = scored.lake, scored.versions
    worse, good = NIGHT + timedelta(days=9), sorted(scored.lists.items())
    planted = add_lists(lake, {worse: change(good, "u1", with_first(item_id=SEEN))})
    first = Published(NIGHT, scored.top_n, "recsys", "7", versions.users, versions.items, USERS)
    version = publish(lake, first)
    assert publish(lake, first) == version
    assert lake.version(schemas.OPS_PUBLISHED) == version
    assert live(lake) == first
    # A worse night is written to the same table, and refused: readers do not see it.
    with pytest.raises(PublishError):
        check_lists(lake, planted, versions, worse)
    shown = {row["user_id"]: len(row["recommendations"]) for row in live_lists(lake).collect()}
    assert shown == {user: len(entries) for user, entries in scored.lists.items()}
    # Another night flips all at once; an older one that is published again does not.
    commit = score_users(lake, scored.bundle, "9", versions, NIGHT + timedelta(days=30)).commit
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

    commit = score_users(lake, scored.bundle, "9", versions, NIGHT + timedelta(days=30)).commit
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
