"""A night whose lists are put in order by a click ranker, from its training to what is live."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys import schemas
from recsys.bundle import load_bundle, load_for_scoring, load_ranker
from recsys.config import Settings, load_settings
from recsys.lake.formats import load_format
from recsys.lake.operations import StageRun
from recsys.lake.publish import live_lists
from recsys.lake.tables import Lake
from recsys.models.click_ranker import ClickRanker
from recsys.ranking.histories import Histories
from recsys.score.ranker import rank_histories
from recsys.steps.context import Context
from recsys.steps.night import ALL_STEPS
from recsys.steps.ranker import derive_settings
from recsys.steps.runner import run_night
from recsys.steps.tracking import open_tracking
from tests.e2e.small_night import DATES, write_small_log

pytestmark = [pytest.mark.spark, pytest.mark.long]

CHANGES = (
    "train.launcher=single", "train.ranks=1", "train.max_epochs=1", "ranker.enabled=true",
    "ranker.candidates=15", "ranker.max_epochs=2", "ranker.dims=4", "ranker.hidden=[8]",
    "generate.click_spread=2.0", "privacy.pseudonyms=false",
)  # fmt: skip


def test_the_ranker_s_settings_are_allowed_whatever_the_model_learns() -> None:
    changes = ("train.task=purchase", "model.head=linear", "train.label_share=0.5")
    pretrained = ("train.pretraining.enabled=true",)
    for given in ((), changes, pretrained, ("model.kind=matrix_factorization",)):
        settings = load_settings(None, ["ranker.enabled=true", "ranker.max_epochs=4", *given])
        derived = Settings.model_validate(derive_settings(settings).model_dump(mode="json"))
        assert (derived.task, derived.train.max_epochs) == ("click_ranking", 4)


@dataclass(frozen=True)
class Night:
    lake: Lake
    runs: dict[str, StageRun]
    said: list[str]

    @property
    def bundle(self) -> Path:
        return open_tracking(self.lake.settings).bundle_of("1")

    def run(self) -> list[str]:
        context = Context(
            self.lake.settings, load_format("generated"), DATES[-1], self.lake, say=self.said.append
        )
        self.runs.update(run_night(context, ALL_STEPS))
        return self.said


@pytest.fixture(scope="module")
def night(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Night:
    settings = write_small_log(spark, tmp_path_factory.mktemp("ranked"), *CHANGES)
    made = Night(Lake(spark, settings), {}, [])
    made.run()
    return made


def test_the_ranker_is_trained_beside_the_model_and_says_how_good_it_is(night: Night) -> None:
    details = night.runs["train"].details
    assert 0.0 < float(details["ranker auc"]) < 1.0
    assert {"ranker log_loss_of_rate", "ranker ece", "ranker ece_calibrated"} <= set(details)
    assert float(details["validation_ndcg_at_10"]) > 0
    tracked = mlflow.MlflowClient(open_tracking(night.lake.settings).uri)
    metrics = tracked.get_run(details["run_id"]).data.metrics
    assert metrics["ranker_auc"] == float(details["ranker auc"])
    assert {"ndcg_at_10", "first_stage_ndcg_at_10"} <= set(metrics)


def test_what_is_published_is_compared_with_the_first_stage_beside_it(night: Night) -> None:
    details = night.runs["evaluate"].details
    assert details["models"].split()[:3] == ["model", "first_stage", "popularity"]
    assert details["gate"] == "first model"


def test_live_lists_are_the_first_stage_s_in_the_ranker_s_order(night: Night) -> None:
    lake = night.lake
    model, ranker = load_for_scoring(night.bundle), load_ranker(night.bundle)
    assert ranker is not None
    names = lake.read(schemas.SILVER_ITEMS).select("item_id", "item_idx").collect()
    items = {row[0]: row[1] for row in names}
    rows = {row["user_id"]: row for row in lake.read(schemas.GOLD_SEQUENCES).collect()}
    lists = {row["user_id"]: row["recommendations"] for row in live_lists(lake).collect()}
    users = sorted(rows)
    known = lake.read(schemas.GOLD_ITEM_STATS).select("item_idx").distinct().collect()
    candidates = np.zeros(len(items) + 1, dtype=np.float32)
    candidates[[row[0] for row in known]] = 1.0
    histories = Histories(
        [np.array(rows[user]["items"]) for user in users],
        [np.array(rows[user]["event_times"]) for user in users],
        [np.array(rows[user]["event_types"]) for user in users],
    )
    seen = [np.array(rows[user]["seen_items"]) for user in users]
    first = rank_histories(model, histories, seen, candidates, 15)
    ranked = rank_histories(model, histories, seen, candidates, 10, ranker)
    for row, user in enumerate(users):
        own = [items[e["item_id"]] for e in lists[user] if e["reason"] == "model"]
        allowed = list(first.items[row][first.from_model[row]])
        assert len(own) == min(10, len(allowed))
        assert set(own) <= set(allowed)
        assert not set(own) & set(rows[user]["seen_items"])
        scores = [e["score"] for e in lists[user] if e["reason"] == "model"]
        assert scores == sorted(scores, reverse=True)
        assert own == list(ranked.items[row][ranked.from_model[row]])
    assert {len(entries) for entries in lists.values()} == {10}


def test_one_version_holds_both_and_ranks_alike_in_mlflow(night: Night) -> None:
    settings = night.lake.settings
    ranker, info = load_bundle(night.bundle / "ranker")
    assert isinstance(ranker, ClickRanker)
    assert (ranker.config.candidates, ranker.config.weight) == (15, settings.ranker.weight)
    assert info.metrics["validation_auc"] == pytest.approx(
        float(night.runs["train"].details["ranker auc"]), abs=1e-4
    )
    mlflow.set_tracking_uri(open_tracking(settings).uri)
    model = mlflow.pyfunc.load_model("models:/recsys/1")
    row = night.lake.read(schemas.GOLD_SEQUENCES).orderBy(F.size("seen_items")).first()
    assert row is not None
    columns = ("items", "event_times", "event_types")
    given: dict[str, Any] = {name: [list(row[name])] for name in columns}
    found = model.predict(pd.DataFrame(given), params={"n": 5})
    both = [load_for_scoring(night.bundle), load_ranker(night.bundle)]
    everything = np.ones(info.num_items + 1, dtype=np.float32)
    everything[0] = 0.0
    lists = rank_histories(
        both[0], Histories(*[[np.array(row[name])] for name in columns]),
        [np.array(row["items"])], everything, 5, both[1],
    )  # fmt: skip
    assert found["items"][0] == lists.items[0].tolist()


def test_a_night_run_again_has_nothing_to_do(night: Night) -> None:
    before = len(night.said)
    assert all("done before" in line for line in night.run()[before:])
