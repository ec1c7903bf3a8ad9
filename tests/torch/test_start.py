"""Starting from an earlier model: what is copied, what is left, what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from recsys.bundle import BundleInfo, load_bundle, save_bundle
from recsys.errors import TrainingError
from recsys.models import TransformerConfig, build_model
from recsys.train.communication import SingleProcess
from recsys.train.loop import run_training
from recsys.train.start import copy_weights
from tests.training_tables import RecordingTracker, make_job, make_table, memory_feed

pytestmark = pytest.mark.torch

CONFIG = TransformerConfig(num_items=12, max_length=6, dims=8, blocks=1, heads=1, dropout=0.0)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    save_bundle(tmp_path / "old", build_model(CONFIG), BundleInfo("2026-01-01", "f", 12, 6))
    return tmp_path / "old"


def test_a_grown_catalogue_takes_the_rows_that_there_were(bundle: Path) -> None:
    model = build_model(dataclasses.replace(CONFIG, num_items=15))
    drawn = model.item_embedding.weight[13:].clone()  # type: ignore[union-attr, index]
    copy_weights(model, str(bundle))
    old = load_bundle(bundle)[0]
    assert torch.equal(model.item_embedding.weight[:13], old.item_embedding.weight)  # type: ignore[union-attr, index]
    assert torch.equal(model.item_embedding.weight[13:], drawn)  # type: ignore[union-attr, index]
    others = [n for n, _ in model.named_parameters() if n != "item_embedding.weight"]
    assert all(torch.equal(model.get_parameter(n), old.get_parameter(n)) for n in others)


@pytest.mark.parametrize("change", [{"dims": 16}, {"num_items": 11}])
def test_another_shape_is_refused_by_name(bundle: Path, change: dict[str, int]) -> None:
    model = build_model(dataclasses.replace(CONFIG, **change))
    with pytest.raises(TrainingError, match="has shape"):
        copy_weights(model, str(bundle))


def test_a_training_goes_on_from_the_earlier_quality(tmp_path: Path) -> None:
    table, contents = make_table(tmp_path / "t", files={9: [60, 60]}, validation={9: [30]}, seed=5)
    first = make_job(tmp_path / "a", table, "train.max_epochs=12", "train.patience=12")
    done = run_training(first, SingleProcess(), RecordingTracker(), memory_feed(contents))
    again = dataclasses.replace(
        make_job(tmp_path / "b", table, "train.max_epochs=1", "train.learning_rate=0.000001"),
        start_from=done.bundle_dir,
    )
    result = run_training(again, SingleProcess(), RecordingTracker(), memory_feed(contents))
    name = "validation_ndcg_at_10"
    assert result.metrics[name] == pytest.approx(done.metrics[name], abs=0.01)
    assert done.metrics[name] > 0.5
