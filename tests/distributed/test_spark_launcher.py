"""Horovod inside Spark executors trains the same weights as horovodrun would."""

import dataclasses
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from recsys.bundle import load_bundle
from recsys.errors import TrainingError
from recsys.train.horovodrun import rank_environment
from recsys.train.job import TrainingResult
from recsys.train.launch import launch_training
from tests.cluster.clusters import running_services
from tests.conftest import REPOSITORY
from tests.training_tables import make_job, make_table

pytestmark = [pytest.mark.distributed, pytest.mark.long]

SPARK = ("train.launcher=spark", "train.ranks=2")


@pytest.mark.parametrize("chosen", [(), ("train.parallel.pipeline_stages=2", "model.blocks=2")])
def test_training_inside_executors(spark: Any, tmp_path: Path, chosen: tuple[str, ...]) -> None:
    table, _ = make_table(tmp_path / "t", files={9: [60, 50, 60]}, validation={9: [20, 20]})
    job = make_job(tmp_path, table, *SPARK, *chosen, "train.max_epochs=2")
    result = launch_training(job, spark)
    assert result.epochs == 2
    assert load_bundle(job.bundle_dir)[1].metrics == result.metrics
    assert launch_training(job, spark) == result


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Addresses of a standalone master with two workers of a core each."""
    with running_services(tmp_path / "services", "spark") as addresses:
        yield addresses


def test_executors_of_a_cluster_train_what_horovodrun_trains(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    table, _ = make_table(tmp_path / "t", files={9: [60, 50, 60]}, validation={9: [20, 20]})
    job = make_job(tmp_path, table, *SPARK, "train.max_epochs=2")
    job.save(tmp_path / "job.json")
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("spark-submit")), "--master", cluster["spark"],
            "--driver-memory", "512m", "--executor-memory", "512m",
            str(REPOSITORY / "tests/distributed/submitted.py"), str(tmp_path / "job.json"),
        ],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "SPARK_LOCAL_IP": "127.0.0.1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    with urllib.request.urlopen(f"{cluster['spark-web']}/json/") as answer:
        assert [app["cores"] for app in json.load(answer)["completedapps"]] == [2]

    train = job.settings.train.model_copy(update={"launcher": "horovodrun"})
    other = dataclasses.replace(
        job,
        settings=job.settings.model_copy(update={"train": train}),
        checkpoint_dir=str(tmp_path / "other"),
        bundle_dir=str(tmp_path / "other/bundle"),
    )
    expected, found = launch_training(other), TrainingResult.load(job.result_path)
    assert (found.metrics, found.events) == (expected.metrics, expected.events)
    first, second = (load_bundle(each.bundle_dir)[0].state_dict() for each in (job, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_without_a_session(tmp_path: Path) -> None:
    table, _ = make_table(tmp_path / "t", files={9: [4, 4]}, validation={9: [4]}, write=False)
    with pytest.raises(TrainingError, match="needs a Spark session"):
        launch_training(make_job(tmp_path, table, *SPARK), None)


def test_ranks_do_not_get_the_key_of_the_pseudonyms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECSYS_PSEUDONYM_KEY", "known to the driver alone")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    table, _ = make_table(tmp_path / "t", files={9: [4, 4]}, validation={9: [4]}, write=False)
    environment = rank_environment(make_job(tmp_path, table, "train.threads_per_rank=3"))
    assert "RECSYS_PSEUDONYM_KEY" not in environment
    assert (environment["AWS_REGION"], environment["OMP_NUM_THREADS"]) == ("eu-central-1", "3")


def test_ranks_that_may_meet_anew_get_no_tuning_of_horovod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOROVOD_FUSION_THRESHOLD", "1000")
    table, _ = make_table(tmp_path / "t", files={9: [4, 4]}, validation={9: [4]}, write=False)
    names = {"HOROVOD_FUSION_THRESHOLD", "HOROVOD_CYCLE_TIME"}
    plain = ("train.launcher=horovodrun", "train.ranks=2")
    tuned = make_job(tmp_path, table, *plain, "train.exchange.cycle_ms=2")
    assert names <= rank_environment(tuned).keys()
    assert rank_environment(tuned)["HOROVOD_CYCLE_TIME"] == "2.0"
    elastic = rank_environment(make_job(tmp_path, table, *plain, "train.min_ranks=1"))
    assert not names & elastic.keys()
