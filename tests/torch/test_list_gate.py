"""What the gate says of figures, and the page that shows them."""

from __future__ import annotations

from datetime import date, timedelta
from html.parser import HTMLParser

import numpy as np
import pytest

from recsys.checks import GREEN, RED, YELLOW
from recsys.config import Gate, load_settings
from recsys.errors import ConfigError
from recsys.lake.judge import Past
from recsys.ranking.exposure import count_exposure
from recsys.ranking.metrics import Interval
from recsys.score import gate as gate_of_lists
from recsys.score.comparison import Comparison, Night
from recsys.score.evaluation import Report
from recsys.score.gate import judge_lists, judge_rivals
from recsys.score.report import ModelFigures, Page, render_page

pytestmark = pytest.mark.torch

NIGHT = date(2026, 3, 5)
NONE = np.zeros(0)


def limits(*overrides: str) -> Gate:
    return load_settings(None, [f"gate.{text}" for text in overrides]).gate


def night(day: int = 0, lists: int = 1000, shown: int = 90, version: str = "1") -> Night:
    """Of 100 items so many are in ten lists each."""
    exposure = count_exposure({10: shown}, 100)
    return Night(NIGHT + timedelta(days=day), version, lists, exposure)


def compare(
    now: Night,
    before: Night | None,
    overlap: float = 0.5,
    scores: tuple[np.ndarray, np.ndarray] = (NONE, NONE),
) -> Comparison:
    return Comparison(now, before, np.full(7, overlap), scores[0], scores[1])


def statuses(found: Comparison, *overrides: str) -> dict[str, str]:
    return {result.check: result.status for result in judge_lists(found, limits(*overrides), 3)}


def test_the_first_lists_are_green() -> None:
    results = judge_lists(compare(night(), None), limits(), 3)
    assert {result.status for result in results} == {GREEN}
    assert {result.check: result.value for result in results} == {
        gate_of_lists.LISTS: 1000, gate_of_lists.COVERAGE: 0.9,
        gate_of_lists.GINI: pytest.approx(0.1),
    }  # fmt: skip


def test_equal_nights_are_green() -> None:
    scores = np.linspace(0, 1, 50)
    found = compare(night(1), night(), 1.0, (scores, scores))
    assert set(statuses(found).values()) == {GREEN}
    assert gate_of_lists.SCORES in statuses(found)


@pytest.mark.parametrize(
    ("check", "found", "status"),
    [
        (gate_of_lists.LISTS, compare(night(1, lists=990), night()), YELLOW),
        (gate_of_lists.LISTS, compare(night(1, lists=900), night()), RED),
        (gate_of_lists.COVERAGE, compare(night(1, shown=50), night()), YELLOW),
        (gate_of_lists.COVERAGE, compare(night(1, shown=20), night()), RED),
        (gate_of_lists.GINI, compare(night(1, shown=75), night()), YELLOW),
        (gate_of_lists.GINI, compare(night(1, shown=55), night()), RED),
        (gate_of_lists.OVERLAP, compare(night(1), night(), 0.05), YELLOW),
    ],
)
def test_each_change_is_found(check: str, found: Comparison, status: str) -> None:
    assert statuses(found)[check] == status


def test_a_limit_is_moved_or_off() -> None:
    found = compare(night(1, lists=900), night(), 0.05)
    assert statuses(found, "lower_overlap=[0.5,0.2]")[gate_of_lists.OVERLAP] == RED
    assert statuses(found, "fewer_lists=null")[gate_of_lists.LISTS] == GREEN
    assert statuses(found, "fewer_lists=[0.2,0.3]")[gate_of_lists.LISTS] == GREEN


def test_scores_are_compared_where_the_model_is_the_same() -> None:
    scores = (np.linspace(0, 1, 99) + 3, np.linspace(0, 1, 99))
    assert statuses(compare(night(1), night(), 0.5, scores))[gate_of_lists.SCORES] == RED
    other = compare(night(1, version="2"), night(), 0.5, scores)
    assert gate_of_lists.SCORES not in statuses(other)


@pytest.mark.parametrize(
    "text",
    ["fewer_lists=[0.5,0.1]", "lower_overlap=[0.1,0.5]", "higher_gini=[-1,0.5]"],
)
def test_limits_in_the_wrong_order_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=rf"gate\.{text.split('=')[0]}=.*must be \[yellow, red\]"):
        limits(text)


def report(name: str, per_user: np.ndarray) -> Report:
    mean = float(per_user.mean())
    return Report(name, {"ndcg_at_10": mean}, Interval(mean, mean, mean), per_user)


def test_a_model_below_popularity_is_red_where_that_is_no_chance() -> None:
    dice = np.random.default_rng(1)
    popular = report("popularity", dice.uniform(0.4, 0.6, 500))
    rivals = {"popularity": (popular, (0.0, 0.1))}

    def judge(values: np.ndarray, is_first: bool = False) -> str:
        return judge_rivals(report("model", values), rivals, NIGHT, 1, 200, is_first)[0].status

    assert judge(popular.per_user - 0.2) == RED
    assert judge(popular.per_user - 0.2, is_first=True) == YELLOW
    assert judge(popular.per_user - 0.01) == YELLOW
    assert judge(popular.per_user) == GREEN
    # The mean is a fifth below, but a few users decide it.
    noise = np.where(dice.random(500) < 0.01, -10.0, 0.0)
    few = popular.per_user + noise - noise.mean() * 0.9
    assert few.mean() < popular.per_user.mean()
    assert judge(few) == GREEN


class _Checker(HTMLParser):
    """Every element that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, _: object) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_both_nights_and_is_the_same_each_time() -> None:
    scores = np.linspace(0, 1, 99)
    found = compare(night(1, lists=900, version="<2>"), night(), 0.5, (scores, scores))
    past = {gate_of_lists.GINI: [Past(NIGHT, 0.4)]}
    models = [ModelFigures("model", {"ndcg_at_10": "0.2500"}, "0.2000 0.3000")]
    page = Page(found, judge_lists(found, limits(), 3), [], models, "first model", past)
    html = render_page(page)
    assert html == render_page(page)
    checker = _Checker()
    checker.feed(html)
    assert not checker.open
    for text in ("900 lists by model version <2>", "900, 2026-03-05 has 1,000", "0.2500", "red"):
        assert text in checker.text
    assert html.count("<svg") == 4
