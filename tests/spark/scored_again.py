"""The users of ``scored_lists`` scored once more, with other settings."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from recsys import schemas
from recsys.config import load_settings
from recsys.lake.tables import Lake
from recsys.score.carry import ScoredNight
from recsys.score.job import Scored, score_users
from recsys.score.users import Versions
from tests.ranked_users import N
from tests.spark.scored_lists import NIGHT
from tests.spark.scored_lists import Scored as Lists

TODAY = NIGHT + timedelta(days=1)


def as_earlier(lists: Lists) -> ScoredNight:
    return ScoredNight(NIGHT, lists.versions, lists.top_n, lists.basis, NIGHT)


def score(
    lists: Lists, versions: Versions, model: str = "7", earlier: ScoredNight | None = None,
    day: date = TODAY, *overrides: str,
) -> tuple[Scored, dict[str, list[dict[str, Any]]], list[str]]:  # fmt: skip
    settings = load_settings(
        None, [f"lake.root={lists.lake.settings.lake.root}", f"score.n={N}", *overrides]
    )
    lake, said = Lake(lists.lake.spark, settings), []
    done = score_users(lake, lists.bundle, model, versions, day, said.append, earlier)
    rows = lake.read(schemas.GOLD_TOP_N, done.commit.version).where(f"run_date = '{day}'")
    found = {
        row["user_id"]: [entry.asDict() for entry in row["recommendations"]]
        for row in rows.collect()
    }
    return done, found, said
