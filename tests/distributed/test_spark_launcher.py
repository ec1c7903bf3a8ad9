"""Horovod inside Spark executors trains the same weights as horovodrun would."""

from pathlib import Path
from typing import Any

import pytest

from recsys.bundle import load_bundle
from recsys.errors import TrainingError
from recsys.train.launch import launch_training, rank_environment
from tests.training_tables import make_job, make_table

pytestmark = pytest.mark.distributed

SPARK = ("train.launcher=spark", "train.ranks=2")


def test_training_inside_executors(spark: Any, tmp_path: Path) -> None:
    table, _ = make_table(tmp_path / "t", files={9: [60, 50, 60]}, validation={9: [20, 20]})
    job = make_job(tmp_path, table, *SPARK, "train.max_epochs=2")
    result = launch_training(job, spark)
    assert result.epochs == 2
    assert load_bundle(job.bundle_dir)[1].metrics == result.metrics
    assert launch_training(job, spark) == result


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
