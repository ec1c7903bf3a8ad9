"""Nights that start from the champion of the night before."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.bundle import load_bundle
from recsys.config import load_settings
from recsys.errors import RecsysError, TrainingError
from recsys.lake.tables import Lake
from recsys.steps.context import Context
from recsys.steps.etl import BUILD_GOLD, BUILD_SILVER, INGEST
from recsys.steps.evaluation import EVALUATE
from recsys.steps.runner import run_night
from recsys.steps.training import TRAIN
from tests.spark.etl_nights import DAILY
from tests.spark.tiny_logs import DAY, event, write_json

pytestmark = [pytest.mark.spark, pytest.mark.long]

DAYS = [DAY + timedelta(days=n) for n in range(3)]
USERS = 24
SMALL = (
    "gold.sequence_length=8", "gold.length_buckets=[8]", "gold.min_row_groups=1",
    "gold.validation_share=0.3", "privacy.pseudonyms=false", "ingest.max_reject_share=1",
    "model.dims=8", "model.heads=1", "model.blocks=1", "train.launcher=single", "train.ranks=1",
    "train.max_epochs=2", "train.warm_max_epochs=1", "evaluate.min_history_events=1",
    "evaluate.als.rank=2", "evaluate.als.iterations=1", "train.start_from=champion",
)  # fmt: skip


class Nights:
    """A daily log of ratings with a new item a day, a lake, and what runs nights on them."""

    def __init__(self, lake: Lake, folder: Path) -> None:
        self.lake, self.logs = lake, folder / "logs"
        generator = np.random.default_rng(3)
        for n, day in enumerate(DAYS):
            items = generator.integers(0, 10 + n, (USERS, 4))
            items[:, 0] = 9 + n  # new on that day
            records = [
                event(
                    f"u{user}",
                    f"i{item}",
                    f"{day}T1{at}:00:00Z",
                    "rating",
                    rating=int(1 + item % 5),
                )
                for user, row in enumerate(items)
                for at, item in enumerate(row)
            ]
            write_json(self.logs / f"dt={day}/log.json", records)

    def run(self, day: date, *changes: str) -> tuple[dict[str, Any], list[str]]:
        root = self.lake.settings.lake.root
        given = (f"lake.root={root}", f"input.path={self.logs}", *SMALL, *changes)
        settings, said = load_settings(None, given), list[str]()
        lake = Lake(self.lake.spark, settings)
        context = Context(settings, DAILY, day, lake, say=said.append)
        return run_night(context, (INGEST, BUILD_SILVER, BUILD_GOLD, TRAIN, EVALUATE)), said


@pytest.fixture
def nights(make_lake: Callable[..., Lake], tmp_path: Path) -> Nights:
    return Nights(make_lake(), tmp_path)


def test_nights_start_from_the_night_before_and_a_rerun_has_nothing_to_do(nights: Nights) -> None:
    _, said = nights.run(DAYS[1])
    assert any("no night before has a model" in line for line in said)
    runs, _ = nights.run(DAYS[2])
    first = runs["train"]
    assert first.details["start_from"] == f"the champion, version 1 of {DAYS[1]}"
    assert first.details["epochs"] == "1"
    # Whether or not this night's own model is in charge now, the same night starts from the same.
    _, said = nights.run(DAYS[2])
    assert all("nothing to do" in line for line in said)
    folder = Path(first.details["bundle"]).parent
    assert not (folder / "start").exists()

    _, said = nights.run(DAYS[2], "model.kind=matrix_factorization", "gold.validation_share=0.3")
    assert any(
        "is of kind transformer, model.kind is matrix_factorization: starts from chance" in line
        for line in said
    )
    with pytest.raises(RecsysError, match=r"bundle\.json does not exist"):
        nights.run(DAYS[2], f"train.start_from={nights.logs}")
    with pytest.raises(TrainingError, match=f"was trained on events up to {DAYS[2]}"):
        nights.run(DAYS[1], f"train.start_from={first.details['bundle']}")
    assert load_bundle(first.details["bundle"])[1].trained_before == f"{DAYS[2]}T00:00:00+00:00"
