"""Checkpoints: the newest whole one of the same training, or none."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from recsys.errors import TrainingError
from recsys.train.checkpoint import CheckpointStore
from recsys.train.communication import SingleProcess
from recsys.train.job import TrainingJob
from recsys.train.loop import run_training
from tests.training_tables import RecordingTracker, Windows, make_job, make_table, memory_feed

pytestmark = pytest.mark.torch


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "made/later", "this training")


def save(store: CheckpointStore, step: int) -> Path:
    store.save(step, {"step": step, "weights": {"w": torch.full((50,), float(step))}})
    return store.folder / f"step-{step:09d}.checkpoint"


def test_nothing_to_resume(store: CheckpointStore) -> None:
    assert store.load() is None
    assert store.last_step() is None


def test_the_newest_returns_and_two_are_kept(store: CheckpointStore) -> None:
    for step in (5, 10, 1000):
        save(store, step)
    found = store.load()
    assert found is not None
    assert found["step"] == 1000
    assert torch.equal(found["weights"]["w"], torch.full((50,), 1000.0))
    assert store.last_step() == 1000
    names = sorted(path.name for path in store.folder.iterdir())
    assert names == ["step-000000010.checkpoint", "step-000001000.checkpoint"]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_of_a_damaged_one_the_one_before_serves(
    store: CheckpointStore, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(store, 5)
    newest = save(store, 10)
    content = bytearray(newest.read_bytes())
    if damage == "flip":
        content[-20] ^= 1
    newest.write_bytes({"flip": content, "cut": content[:100], "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        found = store.load()
    assert found is not None
    assert found["step"] == 5
    assert "step-000000010.checkpoint is damaged" in caplog.text


def save_stages(store: CheckpointStore, step: int, stages: int = 3) -> list[Path]:
    def own(stage: int) -> dict[str, Any]:
        return {"model": {f"w{stage}": torch.full((2,), float(step + stage))}}

    for stage in range(1, stages):
        store.save_part(step, stage, stages, own(stage))
    store.save(step, {"step": step, "stages": stages, **own(0)})
    return sorted(store.folder.glob(f"step-{step:09d}.stage-*"))


def test_parts_of_stages_become_one_whole(store: CheckpointStore) -> None:
    for step in (5, 10, 1000):
        save_stages(store, step)
    found = store.load()
    assert found is not None
    assert found.keys() == {"step", "model"}
    assert {name: part.tolist() for name, part in found["model"].items()} == {
        "w0": [1000.0] * 2, "w1": [1001.0] * 2, "w2": [1002.0] * 2
    }  # fmt: skip
    assert len(list(store.folder.iterdir())) == 2 * 3
    store.clear()
    assert not list(store.folder.iterdir())


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_without_a_part_the_one_before_serves(store: CheckpointStore, damage: str) -> None:
    save_stages(store, 5)
    part = save_stages(store, 10)[1]
    part.unlink()
    if damage == "cut":
        part.write_bytes(b"x" * 100)
    found = store.load()
    assert found is not None
    assert found["step"] == 5


def test_another_rank_reads_what_rank_zero_has_loaded(store: CheckpointStore) -> None:
    save_stages(store, 5)
    found = store.read(5)
    for path in store.folder.iterdir():  # by rank 0, which goes on meanwhile
        path.write_bytes(b"")
    assert found.keys() == {"step", "model"}
    assert {name: part.tolist() for name, part in found["model"].items()} == {
        "w0": [5.0] * 2, "w1": [6.0] * 2, "w2": [7.0] * 2
    }  # fmt: skip
    with pytest.raises(TrainingError, match="a rank can't read the checkpoint that rank 0") as e:
        store.read(5)
    assert "train.checkpoint_dir" in e.value.do


def test_parts_whose_whole_was_never_written_go(store: CheckpointStore) -> None:
    store.save_part(7, 1, 2, {"model": {}})
    save_stages(store, 10, stages=2)
    found = store.load()
    assert found is not None
    assert found["step"] == 10
    assert not list(store.folder.glob("step-000000007*"))


def test_when_all_are_damaged_training_starts_anew(store: CheckpointStore) -> None:
    for step in (5, 10):
        save(store, step).write_bytes(b"x" * 200)
    assert store.load() is None


def test_another_training_is_ignored_and_removed(store: CheckpointStore) -> None:
    path = save(store, 5)
    assert CheckpointStore(store.folder, "another training").load() is None
    assert not path.exists()


def test_what_is_half_written_is_no_checkpoint(store: CheckpointStore) -> None:
    save(store, 5)
    (store.folder / ".step-000000010.checkpoint.x1").write_bytes(b"half")
    found = store.load()
    assert found is not None
    assert found["step"] == 5


def test_clearing_keeps_other_files(store: CheckpointStore) -> None:
    save(store, 5)
    (store.folder / "result.json").touch()
    store.clear()
    assert [path.name for path in store.folder.iterdir()] == ["result.json"]


def test_content_of_another_model_is_refused_with_what_to_do(tmp_path: Path) -> None:
    table, contents = make_table(tmp_path, files={9: [40]}, validation={9: [4]}, write=False)
    job = make_job(tmp_path, table)
    with pytest.raises(ConnectionError):
        train(job, contents, RecordingTracker(fail_at=3))
    wider = make_job(tmp_path, table, "model.dims=32")  # the same fingerprint, by a mistake
    with pytest.raises(TrainingError, match="the checkpoint is of another model or release") as e:
        train(wider, contents, RecordingTracker())
    assert "size mismatch" in e.value.what
    assert e.value.where == job.checkpoint_dir
    assert "delete" in e.value.do


def train(job: TrainingJob, contents: Windows, tracker: RecordingTracker) -> None:
    run_training(job, SingleProcess(), tracker, memory_feed(contents))
