"""`recsys benchmark scaling` as a user types it, on a tiny set; how fast it is, is not asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from matplotlib.image import imread

from recsys.benchmark.scaling import share_batch, write_walks
from recsys.benchmark.sequence_file import read_sequences
from recsys.config import load_settings
from recsys.errors import ConfigError
from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.distributed, pytest.mark.long]


def test_one_and_two_ranks_give_json_a_picture_and_a_run(tmp_path: Path) -> None:
    lines = [" ".join(map(str, (user, *range(1 + user % 9, 9 + user % 9)))) for user in range(60)]
    (tmp_path / "tiny.txt").write_text("\n".join(lines))
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    command = [sys.executable, "-m", "recsys.cli.main", "benchmark", "scaling"]
    options = ["--ranks", "1", "2", "--epochs", "1", "--out", f"{tmp_path}/scaling.png"]
    small = ["model.dims=16", "train.per_rank_batch_size=16", f"tracking.uri={uri}"]
    done = subprocess.run(
        [*command, f"{tmp_path}/tiny.txt", *options, *small],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    one, two = (json.loads(line) for line in done.stdout.splitlines())
    assert (one["ranks"], one["speed_up"], one["efficiency"]) == (1, 1.0, 1.0)
    assert two["ranks"] == 2
    assert two["efficiency"] == pytest.approx(two["speed_up"] / 2, abs=1e-3)
    for result in (one, two):
        assert result["events_per_second"] > 0
        assert 0 <= result["waited_seconds"] <= result["seconds"]
    assert imread(tmp_path / "scaling.png").shape == (400, 600, 4)

    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("nightly")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    speeds = client.get_metric_history(run.info.run_id, "events_per_second")
    assert {m.step: m.value for m in speeds} == {
        result["ranks"]: result["events_per_second"] for result in (one, two)
    }
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["scaling.png"]


def test_ranks_share_one_batch() -> None:
    settings = load_settings(
        "benchmark.yaml", ["train.per_rank_batch_size=48", "train.per_rank_batch_events=600"]
    )
    shared = share_batch(settings, 3, 2).train
    assert (shared.ranks, shared.per_rank_batch_size, shared.per_rank_batch_events) == (3, 16, 200)
    assert (shared.max_epochs, shared.patience, shared.threads_per_rank) == (2, 2, 1)
    with pytest.raises(ConfigError, match="5 ranks can't share a batch of 48 evenly"):
        share_batch(settings, 5, 2)


def test_synthetic_sequences_are_a_set(tmp_path: Path) -> None:
    first = write_walks(tmp_path / "a.txt", seed=1)
    assert first.read_text() == write_walks(tmp_path / "b.txt", seed=1).read_text()
    lengths = [len(items) for items in read_sequences(first).sequences]
    assert min(lengths) >= 10
    assert len(set(lengths)) > 5
