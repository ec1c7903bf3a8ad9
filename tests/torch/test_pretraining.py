"""Pre-training: what its terms see and weigh, and that they learn."""

from __future__ import annotations

import dataclasses
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.bundle import load_bundle
from recsys.models import SequenceTransformer
from recsys.train.batch import Batch, Recency, make_batch
from recsys.train.communication import SingleProcess
from recsys.train.job import TrainingJob
from recsys.train.loop import run_training
from recsys.train.models import make_model
from recsys.train.objectives.pretraining import Pretraining, read_around, window_weights
from recsys.train.rows import Channels
from tests.training_tables import (
    ITEMS,
    RecordingTracker,
    make_job,
    make_table,
    make_windows,
    memory_feed,
)

pytestmark = pytest.mark.torch

OFF = (
    "train.pretraining.masked_weight=0", "train.pretraining.contrastive_weight=0",
    "train.start_from_popularity=false", "model.dropout=0.0",
)  # fmt: skip
CPU = torch.device("cpu")


def job_of(folder: Path, *overrides: str) -> TrainingJob:
    table, _ = make_table(folder, files={9: [4]}, validation={9: [4]}, write=False)
    return make_job(folder, table, "train.task=pretraining", *overrides)


def model_of(job: TrainingJob) -> SequenceTransformer:
    torch.manual_seed(2)
    model = make_model(job)
    assert isinstance(model, SequenceTransformer)
    return model.train()


def batch_of(rows: int = 6, seed: int = 1) -> Batch:
    return make_batch(make_windows(rows, 9, np.random.default_rng(seed))["items"], None)


def part(batch: Batch, rows: slice) -> Batch:
    return make_batch(batch.items[rows].numpy().astype(np.int32), None)


def test_without_terms_it_is_next_item_prediction(tmp_path: Path) -> None:
    job = job_of(tmp_path, *OFF)
    objective, model, batch = Pretraining(job, CPU), model_of(job), batch_of()
    wanted = objective.choose(batch)
    plain = super(Pretraining, objective).sum_losses(model, wanted, None)
    assert model.mask_vector is None
    assert torch.equal(objective.sum_losses(model, wanted, None), plain)


def test_masked_items_are_a_softmax_over_the_catalogue(tmp_path: Path) -> None:
    """A catalogue of three items, by hand."""
    job = job_of(tmp_path, *OFF, "train.pretraining.masked_weight=0.5")
    job = dataclasses.replace(job, num_items=3)
    objective, model = Pretraining(job, CPU), model_of(job)
    torch.nn.init.normal_(model.item_embedding.weight, std=0.5)
    batch = make_batch(np.array([[0, 1, 2, 3], [3, 2, 1, 1]], dtype=np.int32), None)
    assert batch.positions.tolist() == [1, 2, 3, 4, 5]
    plain = objective.choose(batch)
    base = objective.sum_losses(model, dataclasses.replace(plain, masked=None), None)
    # Hidden: item 2 of the first window, the last 1 (no input) of the second.
    masked = dataclasses.replace(plain, masked=torch.tensor([0, 4]))
    found = objective.sum_losses(model, masked, None) - base

    vectors = torch.cat([model.item_vectors(), model.mask_vector[None]])  # type: ignore[index]
    first = model(torch.tensor([[0, 1, 4]]), vectors, causal=False)[0, 1]
    second = model(torch.tensor([[3, 2, 1]]), vectors, causal=False)[0, 2]
    expected = 0.0
    for state, target in ((first, 2), (second, 1)):
        scores = [(state @ vectors[item]).item() for item in (1, 2, 3)]
        expected -= np.log(np.exp(scores[target - 1]) / np.exp(scores).sum())
    assert found.item() == pytest.approx(
        0.5 * expected / job.settings.train.pretraining.masked_share
    )


@pytest.mark.parametrize("positions", ["learned", "rotary", "relative"])
def test_a_masked_item_is_not_seen_and_those_on_both_sides_are(
    tmp_path: Path, positions: str
) -> None:
    job = job_of(
        tmp_path, *OFF, "train.pretraining.masked_weight=1", f"model.positions={positions}",
        "model.event_types=true", "model.blocks=2",
    )  # fmt: skip
    model = model_of(job)
    items, types = torch.tensor([[0, 4, 5, 6, 7, 8]]), torch.ones(1, 6, dtype=torch.int32)
    place = torch.tensor([2])  # the state after 5, before 6

    def state(items: torch.Tensor, types: torch.Tensor = types) -> torch.Tensor:
        batch = Batch(items, place, event_types=types)
        return read_around(model, batch, items, model.item_vectors(), place)

    own = state(items)
    hidden = torch.tensor([[0, 4, 5, 9, 7, 8]])
    bought = torch.tensor([[1, 1, 1, 4, 1, 1]], dtype=torch.int32)
    assert torch.equal(state(hidden, bought), own)
    for changed in ([[0, 9, 5, 6, 7, 8]], [[0, 4, 5, 6, 9, 8]]):
        assert not torch.allclose(state(torch.tensor(changed)), own)


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax"])
def test_terms_add_up_over_ranks(tmp_path: Path, loss: str) -> None:
    """Two ranks with half of the windows each sum to what one rank has (but for the contrast)."""
    job = job_of(
        tmp_path, *OFF, "train.pretraining.masked_weight=0.7", f"train.loss={loss}",
        "train.negatives=20",
    )  # fmt: skip
    objective, model, whole = Pretraining(job, CPU), model_of(job), batch_of(8)
    drawn = objective.draw(0)
    wanted = objective.choose(whole)
    chosen = torch.zeros(len(whole.positions), dtype=torch.bool)
    chosen[wanted.masked] = True
    assert chosen.any()
    total, at = 0.0, 0
    for rows in (slice(0, 5), slice(5, 8)):
        own = part(whole, rows)
        masked = chosen[at : at + len(own.positions)].nonzero()[:, 0]
        at += len(own.positions)
        half = dataclasses.replace(objective.choose(own), masked=masked)
        total += objective.sum_losses(model, half, drawn).item()
    assert total == pytest.approx(objective.sum_losses(model, wanted, drawn).item(), rel=1e-5)


def test_an_empty_batch_has_gradients_of_all_weights(tmp_path: Path) -> None:
    job = job_of(tmp_path)
    objective, model = Pretraining(job, CPU), model_of(job)
    for batch in (batch_of()._each(lambda values: values[:0]), batch_of(1)):
        model.zero_grad()
        wanted = objective.choose(batch)
        wanted = dataclasses.replace(wanted, masked=torch.zeros(0, dtype=torch.int64))
        objective.sum_losses(model, wanted, None).backward()
        assert all(weight.grad is not None for weight in model.parameters())


def test_windows_count_in_the_contrast_as_their_targets_do() -> None:
    rows = np.array([[0, 1, 2, 3], [-4, -5, -6, 7]], dtype=np.int32)
    assert window_weights(make_batch(rows, None)).tolist() == [2.0, 1.0]
    hours = np.array([[0, 0, 24, 48], [0, 0, 0, 24]], dtype=np.int32)
    aged = make_batch(np.concatenate([rows, hours], axis=1), Recency(1.0, date(1970, 1, 2)))
    assert window_weights(aged).tolist() == [1.5, 0.5]


@pytest.mark.parametrize("term", ["masked_weight", "contrastive_weight"])
def test_each_term_learns(tmp_path: Path, term: str) -> None:
    """The term alone falls on windows that repeat."""
    job = job_of(tmp_path, *OFF, f"train.pretraining.{term}=1", "model.dims=32")
    objective, model, batch = Pretraining(job, CPU), model_of(job), batch_of(32)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    figures = []
    for step in range(60):
        torch.manual_seed(step)
        wanted = objective.choose(batch)
        base = super(Pretraining, objective).sum_losses(model, wanted, None)
        loss = (objective.sum_losses(model, wanted, None) - base) / wanted.weight
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        figures.append(loss.item())
    assert np.mean(figures[-10:]) < 0.7 * np.mean(figures[:10])


def test_a_training_with_all_terms_learns_and_repeats(tmp_path: Path) -> None:
    table, contents = make_table(
        tmp_path / "t", files={9: [60, 60]}, validation={9: [30]}, write=False
    )
    results = []
    for name in ("a", "b"):
        job = make_job(
            tmp_path / name, table, "train.task=pretraining", "model.attributes=true",
            "train.pretraining.attribute_weight=0.5", "train.max_epochs=8", "model.dims=32",
            "train.learning_rate=0.02",
        )  # fmt: skip
        job = dataclasses.replace(job, links={"attribute": [_write_links(tmp_path)]})
        results.append(
            run_training(job, SingleProcess(), RecordingTracker(), memory_feed(contents))
        )
    assert results[0].metrics == results[1].metrics
    assert results[0].metrics["validation_hit_rate_at_10"] > 0.8
    model = load_bundle(results[0].bundle_dir)[0]
    assert model.attribute_output.out_features == 4  # type: ignore[union-attr]
    scored = model.for_scoring()
    assert (scored.config.mask, scored.config.predicted_attributes) == (False, 0)
    given = {"items": torch.tensor([[3, 4, 5]])}
    torch.testing.assert_close(scored.score_items(given), model.score_items(given))


def _write_links(folder: Path) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    items = np.arange(1, ITEMS + 1)
    path = folder / "links.parquet"
    pq.write_table(
        pa.table({
            "item_idx": pa.array(items, pa.int32()), "linked": pa.array(items % 4, pa.int32()),
            "weight": pa.array(np.ones(ITEMS), pa.float32()),
        }),
        path,
    )  # fmt: skip
    return path.as_uri()


def test_channels_are_those_of_next_item(tmp_path: Path) -> None:
    assert Pretraining.channels(job_of(tmp_path)) == Channels()
