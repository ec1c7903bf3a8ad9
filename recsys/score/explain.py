"""What scoring a night would take, told before it scores."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from recsys.config import Score
from recsys.lake.tables import Lake
from recsys.score.forecast import Decision, Forecast, forecast
from recsys.score.layout import describe, lay_out
from recsys.score.method import count_cores, sample_queries
from recsys.score.pack import open_pack
from recsys.score.ranker import count_first
from recsys.score.rules import NightRules
from recsys.score.users import Versions, add_histories

_NO_VECTORS = "there are no item vectors that could be compared"


@dataclass(frozen=True)
class Explained:
    """A scoring before it begins.

    Attributes:
        users: of the night, each of whom gets a list; those whose list is carried over, too.
        memory: a line on what workers need.
        tasks, commits: that the lists are made in.
        forecast: of ranking; None for a model without item vectors or a catalogue without
            candidates, which nothing but exact lists can be made of.
        score: the settings.
    """

    users: int
    memory: str
    tasks: int
    commits: int
    forecast: Forecast | None
    score: Score

    @property
    def auto(self) -> Decision:
        """What score.method=auto would take."""
        if self.forecast is None:
            return Decision(False, _NO_VECTORS)
        return self.forecast.decide()

    @property
    def decision(self) -> Decision:
        """What the settings' method would come to."""
        if self.score.method == "auto":
            return self.auto
        if self.score.method == "exact":
            return Decision(False, "score.method says so")
        obstacle = _NO_VECTORS if self.forecast is None else self.forecast.obstacle
        return Decision(obstacle is None, obstacle or "score.method says so")


def explain_lists(
    lake: Lake,
    bundle: Path,
    versions: Versions,
    run_date: date,
    rules: NightRules | None = None,
) -> Explained:
    """Lay out what the night would be scored with, and time small runs of it on this machine.

    Raises:
        RecsysError: as ``score_users`` before it scores.
    """
    layout = lay_out(lake, bundle, versions, run_date, rules)
    users = describe(lake, bundle, versions, run_date, layout.events, rules)
    users = add_histories(lake, users, versions, layout.events)
    score, count = lake.settings.score, users.count()
    found = None
    pack = open_pack(layout.pack) if layout.has_vectors else None
    if pack is not None and pack.index is not None and len(pack.index):
        first = count_first(score.n, pack.ranker, pack.rules)
        queries = sample_queries(pack, users, layout.events)
        found = forecast(
            pack.index, first, queries, score.recall, count, count_cores(lake), thorough=True
        )
    commits = min(score.commits, layout.tasks)
    return Explained(count, layout.memory, layout.tasks, commits, found, score)
