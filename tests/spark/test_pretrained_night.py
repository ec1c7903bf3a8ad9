"""A night whose model learns from all behaviour first, and then from purchases."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
import torch
from pyspark.sql import SparkSession

from recsys.bundle import load_bundle
from recsys.cli.main import main
from recsys.errors import ConfigError
from recsys.lake.formats import load_format
from recsys.lake.publish import live_lists
from recsys.lake.tables import Lake
from recsys.steps.context import Context
from recsys.steps.night import ALL_STEPS
from recsys.steps.runner import run_night
from recsys.steps.search import search_settings
from recsys.steps.tracking import open_tracking
from tests.e2e.small_night import DATES, write_small_log

pytestmark = [pytest.mark.spark, pytest.mark.long]

# The second training moves nothing, so that its weights show what it began with.
CHANGES = (
    "train.launcher=single", "train.ranks=1", "train.pretraining.enabled=true",
    "train.pretraining.max_epochs=2", "train.task=purchase", "model.head=linear",
    "train.max_epochs=1", "train.learning_rate=1e-12", "train.label_share=0.5",
)  # fmt: skip


@pytest.fixture(scope="module")
def context(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Context:
    settings = write_small_log(spark, tmp_path_factory.mktemp("pretrained"), *CHANGES)
    lake = Lake(spark, settings)
    return Context(settings, load_format("generated"), DATES[-1], lake, say=lambda _: None)


def test_what_is_published_began_with_what_was_learned_without_labels(context: Context) -> None:
    details = run_night(context, ALL_STEPS)["train"].details
    assert details["start_from"] == "pre-training"
    assert details["pretraining epochs"] == "2"
    assert 0.0 < float(details["pretraining ndcg_at_10"]) <= 1.0
    folder = Path(details["bundle"]).parent
    first, _ = load_bundle(folder.with_name(f"{folder.name}-pretraining") / "bundle")
    second, _ = load_bundle(details["bundle"])
    learned, begun = dict(first.named_parameters()), dict(second.named_parameters())
    shared = learned.keys() & begun.keys()
    assert {"item_embedding.weight"} < shared
    assert "mask_vector" in learned.keys() - begun.keys()
    for name in shared:
        torch.testing.assert_close(begun[name], learned[name], atol=1e-6, rtol=0.0)
    assert live_lists(context.lake).count() > 0


def test_both_trainings_are_runs_in_mlflow(
    context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking = open_tracking(context.settings)
    client = mlflow.MlflowClient(tracking.uri)
    experiment = client.get_experiment_by_name(context.settings.tracking.experiment)
    assert experiment is not None
    runs = [run.data for run in client.search_runs([experiment.experiment_id])]
    assert sorted(run.tags.get("training", run.tags.get("start_from")) for run in runs) == [
        "pre-training",
        "pretraining",
    ]
    assert sorted(run.params["train.task"] for run in runs) == ["pretraining", "purchase"]
    with pytest.raises(SystemExit):
        main(["runs", "--lake", context.settings.lake.root])
    assert "pretraining" in capsys.readouterr().out


def test_a_search_says_that_it_trains_once(context: Context) -> None:
    with pytest.raises(ConfigError, match="one training a trial"):
        search_settings(context, {}, 1, None, lambda _: None)
