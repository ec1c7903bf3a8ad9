"""Users are forgotten in every stored model that has a row for them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.bundle import BundleInfo, load_bundle, save_bundle
from recsys.config import load_settings
from recsys.errors import RecsysError, TrainingError
from recsys.models import TransformerConfig, build_model
from recsys.steps.forget import find_model_stores
from recsys.train.communication import SingleProcess
from recsys.train.forget import check_forgotten, forget_in_folder
from recsys.train.job import TrainingJob
from recsys.train.loop import run_training
from recsys.train.registry import ModelRegistry
from recsys.train.tracking import MlflowTracker
from tests.pair_tables import make_pair_job, make_pairs
from tests.training_tables import RecordingTracker, Windows, make_job, make_table, memory_feed

pytestmark = pytest.mark.torch

USERS, ITEMS = 9, 6
GONE = [3, 7, USERS + 40]
ALL = torch.arange(1, USERS + 1)


def pair_job(folder: Path, *overrides: str) -> tuple[TrainingJob, Windows]:
    users, items = (part.ravel() + 1 for part in np.mgrid[:USERS, :ITEMS])
    validation = items == 1
    table, contents = make_pairs(users, items, 1.0 + (users + items) % 5, validation)
    return make_pair_job(folder, table, USERS, ITEMS, "train.max_epochs=1", *overrides), contents


def known(bundle: Path) -> list[int]:
    return [int(user) for user in ALL[load_bundle(bundle)[0].knows({"user_idx": ALL})]]


def ours(_: BundleInfo) -> bool:
    return True


def test_bundles_are_written_anew_and_unfinished_trainings_start_again(tmp_path: Path) -> None:
    job, contents = pair_job(tmp_path / "one")
    run_training(job, SingleProcess(), RecordingTracker(), memory_feed(contents))
    bundle = Path(job.bundle_dir)
    assert known(bundle) == ALL.tolist()
    before, info = load_bundle(bundle)
    described = json.loads((bundle / "bundle.json").read_text())
    # Others: an unfinished training of pairs, one of a model without users, and its bundle.
    often = "train.checkpoint_every_steps=1"
    broken, _ = pair_job(tmp_path / "two", often, "train.per_rank_batch_size=16")
    table, windows = make_table(tmp_path, files={9: [64]}, validation={9: [9]}, write=False)
    other = make_job(tmp_path / "three", table, often)
    for unfinished, rows in ((broken, contents), (other, windows)):
        tracker = RecordingTracker(fail_at=1)
        with pytest.raises(ConnectionError):
            run_training(unfinished, SingleProcess(), tracker, memory_feed(rows))
    damaged = Path(broken.checkpoint_dir) / ".step-000000009.checkpoint.xyz"
    damaged.write_bytes(b"half of a file")
    shape = TransformerConfig(12, 6, dims=8, blocks=1, heads=1, dropout=0.0)
    save_bundle(tmp_path / "three/bundle", build_model(shape), info)
    kept = (tmp_path / "three/bundle/weights.pt").stat().st_mtime_ns
    unfinished = list((tmp_path / "two").rglob("step-*.checkpoint"))

    with pytest.raises(TrainingError, match="still has rows of users"):
        check_forgotten(tmp_path, GONE, ours)
    done = forget_in_folder(tmp_path, GONE, ours)
    assert (done.bundles, done.checkpoints) == (1, len(unfinished) + 1)
    assert len(unfinished) > 0
    assert check_forgotten(tmp_path, GONE, ours) == 1
    assert known(bundle) == [1, 2, 4, 5, 6, 8, 9]
    after, same_info = load_bundle(bundle)
    assert same_info == info
    again = json.loads((bundle / "bundle.json").read_text())
    assert again["weights_sha256"] != described["weights_sha256"]
    for name, weight in after.named_parameters():
        gone = [3, 7] if name.startswith("user_") else []
        rest = [row for row in range(len(weight)) if row not in gone]
        assert torch.equal(weight[rest], before.get_parameter(name)[rest])
        assert not weight[gone].any()
    assert list((tmp_path / "three").rglob("step-*.checkpoint"))
    assert (tmp_path / "three/bundle/weights.pt").stat().st_mtime_ns == kept
    done = forget_in_folder(tmp_path, GONE, ours)
    assert (done.bundles, done.checkpoints) == (0, 0)


def test_a_bundle_that_can_t_be_read_is_no_proof(tmp_path: Path) -> None:
    job, contents = pair_job(tmp_path)
    run_training(job, SingleProcess(), RecordingTracker(), memory_feed(contents))
    weights = Path(job.bundle_dir) / "weights.pt"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(RecsysError, match=r"weights\.pt is damaged"):
        forget_in_folder(tmp_path, GONE, ours)


def test_models_in_mlflow_are_found_by_lake(tmp_path: Path) -> None:
    """A store that can be read from here, and one that can't; and another lake's model in it."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    runs, jobs = [], []
    for name in ("ours", "theirs"):
        root = tmp_path / name
        job, contents = pair_job(root, f"lake.root={root}")
        job = dataclasses.replace(job, tracking_uri=uri, tags={"lake": str(root)})
        tracker = MlflowTracker(job, ranks=1)
        runs.append(run_training(job, SingleProcess(), tracker, memory_feed(contents)).run_id)
        jobs.append(job)
    registry = ModelRegistry(uri, "recsys", "nightly", 5)
    bundles = [registry.bundle_of(registry.register_model(run)) for run in runs]
    (tmp_path / "ours/_checkpoints").mkdir()
    Path(jobs[0].bundle_dir).rename(tmp_path / "ours/_checkpoints/bundle")

    settings = load_settings(None, [f"lake.root={tmp_path}/ours", f"tracking.uri={uri}"])
    stores = find_model_stores(settings)
    assert (len(stores.folders), stores.elsewhere) == (2, ())
    said: list[str] = []
    stores.forget(GONE, said.append)
    assert ["1 models" in line for line in said] == [True, True]
    assert known(bundles[0]) == known(tmp_path / "ours/_checkpoints/bundle")
    assert known(bundles[0]) == [1, 2, 4, 5, 6, 8, 9]
    assert known(bundles[1]) == ALL.tolist()
    assert stores.check(GONE) == 2

    (tmp_path / "mlflow-artifacts").rename(tmp_path / "on another machine")
    said.clear()
    find_model_stores(settings).forget(GONE, said.append)
    assert "mlflow-artifacts can't be reached from here, and the models of 1 runs" in said[1]
    assert runs[0] in said[1]
    assert "mlflow gc" in said[1]


def test_a_lake_that_never_trained_has_no_models(tmp_path: Path) -> None:
    stores = find_model_stores(load_settings(None, [f"lake.root={tmp_path}"]))
    assert (stores.folders, stores.elsewhere) == ((), ())
    assert not list(tmp_path.iterdir())
