"""Starting from an earlier model: what is copied, what is new, what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from recsys.bundle import BundleInfo, load_bundle, load_info, save_bundle
from recsys.config import load_settings
from recsys.errors import ConfigError, TrainingError
from recsys.models import TransformerConfig, build_model
from recsys.train.communication import SingleProcess
from recsys.train.job import TrainingJob
from recsys.train.loop import run_training
from recsys.train.models import make_model
from recsys.train.start import copy_weights, find_misfit, set_warm_schedule
from tests.training_tables import ITEMS, RecordingTracker, make_job, make_table, memory_feed

pytestmark = pytest.mark.torch

OLD = 30
CONFIG = TransformerConfig(num_items=OLD, max_length=8, dims=16, blocks=1, heads=2, dropout=0.0)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    save_bundle(tmp_path / "old", build_model(CONFIG), BundleInfo("2026-01-01", "f", OLD, 8))
    return tmp_path / "old"


@pytest.fixture
def job(tmp_path: Path, bundle: Path) -> TrainingJob:
    """A job whose catalogue has grown by ten items since."""
    table, _ = make_table(tmp_path / "t", files={9: [20]}, validation={9: [5]}, write=False)
    return dataclasses.replace(make_job(tmp_path, table), start_from=str(bundle))


def test_a_grown_catalogue_takes_the_rows_that_there_were(bundle: Path, job: TrainingJob) -> None:
    model = make_model(job)
    drawn = model.item_embedding.weight[OLD + 1 :].clone()  # type: ignore[union-attr, index]
    new = copy_weights(model, job)
    old = load_bundle(bundle)[0]
    table = model.item_embedding.weight  # type: ignore[union-attr]
    assert torch.equal(table[: OLD + 1], old.item_embedding.weight)  # type: ignore[union-attr, index]
    assert torch.equal(table[OLD + 1 :], drawn)  # type: ignore[index]
    others = [n for n, _ in model.named_parameters() if n != "item_embedding.weight"]
    assert all(torch.equal(model.get_parameter(n), old.get_parameter(n)) for n in others)
    assert new.nonzero().flatten().tolist() == list(range(OLD + 1, ITEMS + 1))


def test_items_that_came_in_the_hold_out_of_then_are_new_though_they_have_rows(
    job: TrainingJob,
) -> None:
    new = copy_weights(make_model(job), dataclasses.replace(job, new_items=[7, 35]))
    assert new.nonzero().flatten().tolist() == [7, *range(OLD + 1, ITEMS + 1)]


def test_a_new_item_is_an_average_one_of_its_popularity() -> None:
    model = build_model(dataclasses.replace(CONFIG, num_items=4))
    counts = torch.tensor([0.0, 9.0, 99.0, 9.0, 0.0])
    new = torch.tensor([False, False, False, True, True])
    table = model.item_embedding.weight  # type: ignore[union-attr]
    # What is learned of items 1 and 2 lies 0.5 and 1.5 above the logarithm of their counts.
    learned = torch.log(torch.tensor([10.0, 100.0])) + torch.tensor([0.5, 1.5])
    table.data[1:3, 0] = learned  # type: ignore[index, union-attr]
    before = table.detach().clone()  # type: ignore[operator]
    model.place_new_items(counts, new)
    assert torch.equal(table[:3], before[:3])  # type: ignore[index]
    torch.testing.assert_close(table[3:, 0], torch.tensor([10.0, 1.0]).log() + 1.0)  # type: ignore[index]
    torch.testing.assert_close(table[3:, 1:], before[1:3, 1:].mean(dim=0).expand(2, -1))  # type: ignore[index]


def test_beside_untrained_items_a_new_one_starts_as_set_popularity_says() -> None:
    model = build_model(dataclasses.replace(CONFIG, num_items=5))
    counts = torch.tensor([0.0, 3.0, 8.0, 20.0, 5.0, 1.0])
    model.set_popularity(counts)
    table = model.item_embedding.weight  # type: ignore[union-attr]
    expected = table[:, 0].clone()  # type: ignore[index, operator]
    table.data[4:, 0] = -7.0  # type: ignore[index, union-attr]
    model.place_new_items(counts, torch.arange(6) > 3)
    torch.testing.assert_close(table[:, 0].detach(), expected.detach())  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("model.dims=32", "has dims 16, model.dims is 32"),
        ("model.heads=4", "has heads 2, model.heads is 4"),
        ("model.kind=matrix_factorization", "is of kind transformer, model.kind is matrix_f"),
    ],
)
def test_a_model_of_another_kind_or_shape_does_not_fit(
    job: TrainingJob, bundle: Path, change: str, said: str
) -> None:
    assert find_misfit(job, str(bundle)) == ""
    changed = load_settings(None, ["model.dims=16", "model.heads=2", "model.blocks=1", change])
    other = dataclasses.replace(job, settings=changed, num_users=3)
    assert said in find_misfit(other, str(bundle))


def test_a_smaller_catalogue_is_refused_by_name(job: TrainingJob) -> None:
    smaller = dataclasses.replace(job, num_items=OLD - 1)
    with pytest.raises(TrainingError, match=r"has item_embedding.weight of shape \(31, 16\)"):
        copy_weights(make_model(smaller), smaller)


def test_a_training_goes_on_from_the_earlier_quality(tmp_path: Path) -> None:
    table, contents = make_table(tmp_path / "t", files={9: [60, 60]}, validation={9: [30]}, seed=5)
    first = dataclasses.replace(
        make_job(tmp_path / "a", table, "train.max_epochs=12", "train.patience=12"),
        trained_before="2024-11-02T00:00:00+00:00",
    )
    done = run_training(first, SingleProcess(), RecordingTracker(), memory_feed(contents))
    assert load_info(done.bundle_dir).trained_before == first.trained_before
    again = dataclasses.replace(
        make_job(tmp_path / "b", table, "train.max_epochs=1", "train.learning_rate=0.000001"),
        start_from=done.bundle_dir,
    )
    result = run_training(again, SingleProcess(), RecordingTracker(), memory_feed(contents))
    name = "validation_ndcg_at_10"
    assert result.metrics[name] == pytest.approx(done.metrics[name], abs=0.01)
    assert done.metrics[name] > 0.5


def test_a_warm_schedule_is_shorter_and_never_longer() -> None:
    given = ["train.learning_rate=0.01", "train.warm_learning_rate_share=0.5"]
    for epochs, expected in ((20, 4), (3, 3)):
        settings = load_settings(None, [*given, "train.warm_max_epochs=4"])
        train = settings.train.model_copy(update={"max_epochs": epochs})
        warm = set_warm_schedule(settings.model_copy(update={"train": train})).train
        assert (warm.max_epochs, warm.learning_rate) == (expected, 0.005)
        assert warm.patience == train.patience


def test_words_that_are_numbered_anew_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.start_from=champion can't go with"):
        load_settings(None, ["train.start_from=champion", "model.attributes=true"])
