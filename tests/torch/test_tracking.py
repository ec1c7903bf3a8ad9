"""MLflow on a real SQLite store: what a run holds, the registry, and an unreachable server."""

import dataclasses
import json
import socket
import subprocess
import sys
from math import nan
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from recsys.bundle import load_bundle
from recsys.errors import TrackingError
from recsys.train.communication import SingleProcess
from recsys.train.job import TrainingJob, TrainingResult
from recsys.train.loop import run_training
from recsys.train.registry import ModelRegistry
from recsys.train.tracking import MlflowTracker, draw_curves, redact, without_user
from tests.training_tables import make_job, make_table, memory_feed

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tracking")


@pytest.fixture(scope="module")
def trained(folder: Path) -> tuple[TrainingJob, TrainingResult]:
    table, contents = make_table(
        folder / "table", files={9: [60, 60]}, validation={9: [20]}, write=False
    )
    overrides = [
        "train.max_epochs=2",
        "spark.extra={spark.hadoop.fs.s3a.secret.key: hunter2}",
        "lake.root=s3a://someone:hunter2@bucket/lake",
        "train.checkpoint_dir=unused",
    ]
    job = make_job(folder, table, *overrides, uri=f"sqlite:///{folder}/mlflow.db")
    tracker = MlflowTracker(job, ranks=1)
    return job, run_training(job, SingleProcess(), tracker, memory_feed(contents))


@pytest.fixture(scope="module")
def registry(trained: tuple[TrainingJob, TrainingResult]) -> ModelRegistry:
    assert trained[0].tracking_uri is not None
    return ModelRegistry(trained[0].tracking_uri, "recsys", "nightly", 5)


def test_a_run_holds_all_that_replays_it(trained: tuple[TrainingJob, TrainingResult]) -> None:
    job, result = trained
    client = mlflow.MlflowClient(job.tracking_uri)
    run = client.get_run(result.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["model.dims"] == "16"
    assert run.data.params["train.seed"] == str(job.settings.train.seed)
    expected = {
        "run_date": job.run_date,
        "fingerprint": job.fingerprint,
        "world_size": "1",
        "code_commit": "c0ffee",
        "table.silver/items": "5",
        "table.gold/training_sequences": "3",
    }
    assert expected.items() <= run.data.tags.items()
    assert run.data.metrics["best_validation_ndcg_at_10"] == pytest.approx(
        result.metrics["validation_ndcg_at_10"]
    )
    steps = client.get_metric_history(result.run_id, "step_loss")
    assert [metric.step for metric in steps] == list(range(result.global_steps))
    epochs = client.get_metric_history(result.run_id, "validation_loss")
    assert [metric.step for metric in epochs] == [0, 1]


def test_a_run_holds_pictures_and_its_configuration(
    trained: tuple[TrainingJob, TrainingResult],
) -> None:
    job, result = trained
    client = mlflow.MlflowClient(job.tracking_uri)
    names = {Path(item.path).name for item in client.list_artifacts(result.run_id, "curves")}
    assert {"loss.png", "validation_ndcg_at_10.png"} <= names
    picture = Path(client.download_artifacts(result.run_id, "curves/loss.png"))
    assert picture.read_bytes().startswith(b"\x89PNG")
    config = Path(client.download_artifacts(result.run_id, "config.yaml"))
    assert "per_rank_batch_size: 16" in config.read_text()


def test_no_secret_is_logged(trained: tuple[TrainingJob, TrainingResult], folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "mlflow.db" for path in files)
    assert any(path.name == "config.yaml" for path in files)
    assert not [path for path in files if b"hunter2" in path.read_bytes()]


def test_registering_is_idempotent_and_the_champion_is_the_promoted(
    trained: tuple[TrainingJob, TrainingResult], registry: ModelRegistry
) -> None:
    _, result = trained
    if registry.champion() is None:
        assert registry.register_model(result.run_id) == "1"
    assert registry.register_model(result.run_id) == "1"
    registry.promote("1")
    champion = registry.champion()
    assert champion is not None
    assert (champion.version, champion.run_id) == ("1", result.run_id)
    _, info = load_bundle(champion.bundle)
    assert info.fingerprint == trained[0].fingerprint
    assert load_bundle(registry.bundle_of("1"))[1] == info
    listed = registry.list_runs(5)
    assert [(run["run_id"], run["version"], run["alias"]) for run in listed] == [
        (result.run_id, "1", "champion")
    ]
    assert listed[0]["status"] == "FINISHED"
    assert listed[0]["seconds"] > 0
    assert listed[0]["run_date"] == trained[0].run_date


def test_figures_and_reports_are_added_later(
    trained: tuple[TrainingJob, TrainingResult], registry: ModelRegistry
) -> None:
    run_id = trained[1].run_id
    for value in (0.5, 0.25):  # measured again: the last one counts
        registry.log_metrics(run_id, {"ndcg_at_10": value})
    registry.log_report(run_id, "gate.md", "# passed")
    registry.set_tags(run_id, {"gate": "passed"})
    run = registry.list_runs(1)[0]
    assert run["metrics"]["ndcg_at_10"] == 0.25
    assert run["tags"]["gate"] == "passed"
    report = mlflow.MlflowClient(registry.uri).download_artifacts(run_id, "gate.md")
    assert Path(report).read_text() == "# passed"


def test_the_logged_model_serves_in_another_process(
    trained: tuple[TrainingJob, TrainingResult], registry: ModelRegistry
) -> None:
    registry.register_model(trained[1].run_id)
    code = (
        "import mlflow, sys, pandas as pd; mlflow.set_tracking_uri(sys.argv[1]);"
        "model = mlflow.pyfunc.load_model('models:/recsys/1');"
        "frame = pd.DataFrame({'items': [[1, 2, 3], [7], [], list(range(1, 41))]});"
        "print(model.predict(frame, params={'n': 4}).to_json())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, registry.uri],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    found = pd.DataFrame(json.loads(done.stdout.splitlines()[-1])).reset_index(drop=True)
    assert [len(items) for items in found["items"]] == [4, 4, 4, 4]
    assert not set(found["items"][0]) & {1, 2, 3}
    assert found["items"][3] == [0, 0, 0, 0]  # everything was seen


def test_a_killed_training_continues_its_run(
    trained: tuple[TrainingJob, TrainingResult],
) -> None:
    job, result = trained
    tracker = MlflowTracker(job, ranks=1)
    assert tracker.start(result.run_id) == result.run_id
    assert tracker.start("f" * 32) not in ("", result.run_id)


def test_a_run_that_was_killed_at_its_end_is_ended_again(
    trained: tuple[TrainingJob, TrainingResult],
) -> None:
    """Its figures are there already, with other seconds; the model lists those of the last try."""
    job, result = trained
    tracker = MlflowTracker(job, ranks=1)
    run_id = tracker.start("")
    history = [{"validation_loss": 4.0}]
    for seconds in (3.0, 2.0):
        tracker.start(run_id)
        tracker.log_steps([(0, {"loss": 5.0 + seconds})])
        tracker.finish(dataclasses.replace(result, seconds=seconds), history)
    client = mlflow.MlflowClient(job.tracking_uri)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["train_seconds"] == 2
    models = client.search_logged_models(
        [run.info.experiment_id], filter_string=f"source_run_id = '{run_id}'"
    )
    newest = max(models, key=lambda model: model.creation_timestamp)
    metrics = {metric.key: metric.value for metric in newest.metrics or ()}
    assert metrics["best_validation_loss"] == result.metrics["validation_loss"]
    assert "step_loss" not in metrics


def test_every_figure_of_any_objective_is_drawn(tmp_path: Path) -> None:
    history = [
        {"train_loss": 1.0, "validation_loss": 1.1, "validation_rmse": 0.9, "validation_auc": 0.7},
        {"train_loss": 0.9, "validation_loss": 1.0, "validation_rmse": 0.8, "validation_auc": nan},
    ]
    drawn = draw_curves(history, tmp_path)
    assert [path.name for path in drawn] == [
        "loss.png",
        "validation_rmse.png",
        "validation_auc.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_an_unknown_run_or_version_is_an_error(registry: ModelRegistry) -> None:
    with pytest.raises(TrackingError, match="not found"):
        registry.register_model("0" * 32)
    with pytest.raises(TrackingError, match="not found"):
        registry.promote("99")
    empty = dataclasses.replace(registry, model_name="another", experiment="another")
    assert empty.champion() is None
    assert empty.list_runs() == []


@pytest.mark.timeout(120)  # MLflow by itself goes on asking for many minutes
def test_an_unreachable_server_is_noticed_in_time() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"http://someone:hunter2@127.0.0.1:{port}"
    with pytest.raises(TrackingError, match="MLflow failed") as caught:
        ModelRegistry(uri, "recsys", "nightly", 10).champion()
    assert f"127.0.0.1:{port}" in caught.value.where
    assert "hunter2" not in str(caught.value)
    assert "tracking.uri" in caught.value.do


def test_secrets_are_found_by_name_and_in_urls() -> None:
    settings = {
        "a": {"fs.s3a.access.key": "x", "password": "y", "timeout": 3},
        "b": ["https://u:p@host/x", "plain"],
        "token_file": None,
    }
    assert redact(settings) == {
        "a": {"fs.s3a.access.key": "***", "password": "***", "timeout": 3},
        "b": ["https://host/x", "plain"],
        "token_file": None,
    }
    assert without_user("s3a://bucket/a@b") == "s3a://bucket/a@b"
