"""Training of the click ranker: planted clicks are found, and their chances come out right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.bundle import load_bundle
from recsys.config import load_settings
from recsys.errors import ConfigError, TrainingError
from recsys.models.click_ranker import ClickRanker
from recsys.ranking.probabilities import auc, count_logits
from recsys.schemas import EVENT_TYPE_CODES, VALIDATION_SPLIT
from recsys.train.batch import Batch, make_batch
from recsys.train.communication import SingleProcess
from recsys.train.job import TrainingJob, TrainingResult
from recsys.train.loop import Trainer, run_training
from recsys.train.objectives import make_objective
from recsys.train.objectives.clicks import (
    AUC,
    CALIBRATION_ERROR,
    CALIBRATION_ERROR_CALIBRATED,
    LOG_LOSS,
    LOG_LOSS_CALIBRATED,
    LOG_LOSS_OF_RATE,
    ClickRanking,
)
from tests.click_windows import Clicks, make_clicks
from tests.training_tables import RecordingTracker, make_job, memory_feed, pack_columns

pytestmark = pytest.mark.torch

BASICS = (
    "model.kind=click_ranker", "train.recency_half_life_days=null", "train.per_rank_batch_size=64",
    "train.learning_rate=0.01", "train.max_epochs=5", "ranker.dims=4",
)  # fmt: skip


@pytest.fixture(scope="module")
def planted() -> Clicks:
    return make_clicks(files=8, rows=500, length=17)


def train(job: TrainingJob, data: Clicks) -> tuple[TrainingResult, ClickRanker]:
    result = run_training(job, SingleProcess(), RecordingTracker(), memory_feed(data.contents))
    model = load_bundle(result.bundle_dir)[0]
    assert isinstance(model, ClickRanker)
    return result, model


def test_planted_clicks_are_found_and_calibrated(planted: Clicks, tmp_path: Path) -> None:
    result, model = train(make_job(tmp_path, planted.table, *BASICS), planted)
    figures = result.metrics
    url = next(file.url for file in planted.table.files if file.split == VALIDATION_SPLIT)
    labels = planted.contents[url]["event_types"][:, 1:].ravel() > 1
    chances = planted.best[:, 1:].ravel()
    best = auc(count_logits(np.log(chances / (1 - chances)), labels))
    best_loss = -np.log(np.where(labels, chances, 1 - chances)).mean()
    assert best - 0.02 < figures[AUC] < best + 0.005
    assert best_loss - 0.005 < figures[LOG_LOSS_CALIBRATED] < best_loss + 0.03
    assert figures[LOG_LOSS] < figures[LOG_LOSS_OF_RATE] - 0.05
    assert figures[CALIBRATION_ERROR_CALIBRATED] < 0.05
    # The bundle's model is the calibrated one: on the whole it says what was clicked.
    items = torch.from_numpy(planted.contents[url]["items"])
    types = torch.from_numpy(planted.contents[url]["event_types"])
    said = model.log_probability(model(items, types)).exp().mean().item()
    assert said == pytest.approx(labels.mean(), abs=0.005)


def test_a_model_that_says_too_much_is_corrected(planted: Clicks, tmp_path: Path) -> None:
    job = make_job(tmp_path, planted.table, *BASICS, "train.max_epochs=2")
    _, model = train(job, planted)
    with torch.no_grad():
        model.output.weight *= 4.0
        model.output.bias.mul_(4.0).add_(1.0)
    objective, feed = make_objective(job, torch.device("cpu")), memory_feed(planted.contents)
    made = feed(job, SingleProcess())
    with made.validation() as batches:
        before = objective.validate(model, batches, SingleProcess())
    after = objective.finish(model, made, SingleProcess())
    assert before[CALIBRATION_ERROR] > 0.1
    assert after[CALIBRATION_ERROR_CALIBRATED] < 0.5 * before[CALIBRATION_ERROR]
    assert after[LOG_LOSS_CALIBRATED] < before[LOG_LOSS] - 0.05


def test_same_seed_same_weights(planted: Clicks, tmp_path: Path) -> None:
    short = (*BASICS, "train.max_epochs=1", "train.recency_half_life_days=7")
    first, one = train(make_job(tmp_path / "a", planted.table, *short), planted)
    again, two = train(make_job(tmp_path / "b", planted.table, *short), planted)
    other, _ = train(make_job(tmp_path / "c", planted.table, *short, "train.seed=2"), planted)
    assert first.metrics == again.metrics
    assert other.metrics != first.metrics
    weights = two.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in one.state_dict().items())


def test_context_and_first_events_are_no_targets() -> None:
    job = make_job(Path("unused"), make_clicks(1, 2, 5).table, *BASICS)
    columns = {
        "items": np.array([[0, 0, 4, 5, 6], [1, 2, 3, 4, 5]]),
        "event_types": np.array([[0, 0, 2, 1, 3], [2, 2, 1, 5, 1]]),
        "context": np.array([0, 3]),
    }
    channels = ClickRanking.channels(job)
    batch = make_batch(pack_columns(columns, channels), None, channels)
    wanted = make_objective(job, torch.device("cpu")).choose(batch)
    assert wanted.targets.tolist() == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(("kind", "lacking"), [("rating", "views"), ("view", "clicks")])
def test_a_log_without_views_or_clicks_is_refused_before_the_first_step(
    kind: str, lacking: str, tmp_path: Path
) -> None:
    data = make_clicks(files=2, rows=20, length=9)
    for columns in data.contents.values():
        columns["event_types"][:] = EVENT_TYPE_CODES[kind]
    tracker = RecordingTracker()
    job = make_job(tmp_path, data.table, *BASICS)
    with pytest.raises(TrainingError, match=f"this log has no {lacking}") as caught:
        run_training(job, SingleProcess(), tracker, memory_feed(data.contents))
    assert tracker.started_with is None
    assert "gold/training_sequences version 3" in str(caught.value.where)
    assert "ranker.enabled=false" in caught.value.do


class OnePart(SingleProcess):
    """A rank of two whose sums are kept instead of sent."""

    def __init__(self) -> None:
        self.sent: list[torch.Tensor] = []

    def allreduce_sum(self, values: torch.Tensor) -> torch.Tensor:
        self.sent.append(values.clone())
        return values.clone()


def test_two_ranks_parts_add_up_to_one_rank_s(planted: Clicks, tmp_path: Path) -> None:
    job = make_job(tmp_path, planted.table, *BASICS, "ranker.dropout=0.0")
    objective = make_objective(job, torch.device("cpu"))
    channels = ClickRanking.channels(job)
    columns = next(iter(planted.contents.values()))
    rows = pack_columns(columns, channels)[:64]

    def batch(part: np.ndarray) -> Batch:
        return make_batch(part, None, channels)

    trainer = Trainer(
        job, SingleProcess(), memory_feed(planted.contents)(job, SingleProcess()),
        RecordingTracker(),
    )  # fmt: skip
    model = trainer.learner.model
    assert isinstance(model, ClickRanker)

    def gradient(part: np.ndarray) -> dict[str, torch.Tensor]:
        model.train()
        model.zero_grad()
        objective.sum_losses(model, objective.choose(batch(part)), None).backward()
        found = {name: p.grad for name, p in model.named_parameters()}
        assert all(value is not None for value in found.values())
        return {name: value.clone() for name, value in found.items() if value is not None}

    whole, empty = gradient(rows), gradient(rows[:0])
    halves = [gradient(rows[:30]), gradient(rows[30:])]
    for name, value in whole.items():
        assert not empty[name].any()
        torch.testing.assert_close(halves[0][name] + halves[1][name], value, rtol=1e-3, atol=1e-4)
    # Validation: counts of two ranks, of which one has no rows in a batch, are those of one.
    one, left, right = OnePart(), OnePart(), OnePart()
    objective.validate(model, [batch(rows[:40]), batch(rows[40:])], one)
    objective.validate(model, [batch(rows[:40])], left)
    objective.validate(model, [batch(rows[40:]), batch(rows[:0])], right)
    assert torch.equal(left.sent[0] + right.sent[0], one.sent[0])
    assert one.sent[0].sum() == 64 * 16


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.kind=click_ranker needs ranker\.enabled=false"):
        load_settings(None, ["ranker.enabled=true", "model.kind=click_ranker"])
    with pytest.raises(ConfigError, match=r"can't be learned by model\.kind=transformer"):
        load_settings(None, ["train.task=click_ranking"])
    with pytest.raises(ConfigError, match=r"ranker\.hidden"):
        load_settings(None, ["ranker.hidden=[8, 0]"])
