"""Training on pairs: what was planted is found, and the same again gives the same."""

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.benchmark.run import run_sequences
from recsys.bundle import load_bundle
from recsys.config import load_settings
from recsys.errors import ConfigError
from recsys.models import MatrixFactorization, MatrixFactorizationConfig
from recsys.schemas import PinnedTable
from recsys.train.batch import make_batch
from recsys.train.communication import SingleProcess
from recsys.train.job import TrainingJob, TrainingResult
from recsys.train.loop import run_training
from recsys.train.models import make_model
from recsys.train.objectives import choose_channels, make_objective
from recsys.train.objectives.interaction_pairs import NDCG
from recsys.train.objectives.rating_pairs import MAE, RMSE
from tests.pair_tables import make_pair_job, make_pairs
from tests.training_tables import RecordingTracker, Windows, memory_feed, pack_columns

pytestmark = pytest.mark.torch

USERS, ITEMS = 60, 50
NOISE = 0.1
CPU = torch.device("cpu")
LONG = ("train.max_epochs=15", "train.patience=15", "train.per_rank_batch_size=128",
        "train.factor_regularization=0.001", "train.learning_rate=0.04")  # fmt: skip
NETWORK = ("model.kind=collaborative_network", "model.hidden=16", "train.max_epochs=20",
           "train.patience=20", "train.per_rank_batch_size=32",
           "train.learning_rate=0.03")  # fmt: skip
Table = tuple[PinnedTable, Windows]


def all_pairs(dice: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    users, items = np.array(list(itertools.product(range(1, USERS + 1), range(1, ITEMS + 1)))).T
    order = dice.permutation(len(users))
    return users[order], items[order]


@pytest.fixture(scope="module")
def ratings() -> Table:
    """Biases, a product of rank 2, and noise; of 3,000 pairs 600 validate."""
    dice = np.random.default_rng(4)
    users, items = all_pairs(dice)
    p, q = dice.normal(0, 0.6, (USERS + 1, 2)), dice.normal(0, 0.6, (ITEMS + 1, 2))
    b, c = dice.normal(0, 0.3, USERS + 1), dice.normal(0, 0.3, ITEMS + 1)
    planted = 3.4 + b[users] + c[items] + (p[users] * q[items]).sum(axis=1)
    labels = np.clip(planted + dice.normal(0, NOISE, len(users)), 1, 5)
    return make_pairs(users, items, labels, np.arange(len(users)) < 600)


@pytest.fixture(scope="module")
def interactions() -> Table:
    """Users of five tastes, who had eight of the ten items of theirs."""
    dice = np.random.default_rng(5)
    users, items = all_pairs(dice)
    had = (users % 5 == items % 5) & (dice.random(len(users)) < 0.8)
    validation = dice.random(int(had.sum())) < 0.15
    return make_pairs(users[had], items[had], np.ones(int(had.sum())), validation)


def train(job: TrainingJob, table: Table) -> tuple[TrainingResult, dict[str, torch.Tensor]]:
    result = run_training(job, SingleProcess(), RecordingTracker(), memory_feed(table[1]))
    return result, load_bundle(result.bundle_dir)[0].state_dict()


@pytest.mark.parametrize("more", [("train.optimizer=adam",),
                                  ("train.optimizer=sgd", "train.learning_rate=0.6")])  # fmt: skip
def test_a_planted_matrix_of_low_rank_is_found(
    ratings: Table, tmp_path: Path, more: tuple[str, ...]
) -> None:
    job = make_pair_job(tmp_path, ratings[0], USERS, ITEMS, *LONG, *more)
    result, weights = train(job, ratings)
    assert NOISE * 0.9 < result.metrics[RMSE] < NOISE * 1.5
    assert result.metrics[MAE] < result.metrics[RMSE]
    biases = weights["user_biases.weight"][1:].mean() + weights["item_biases.weight"][1:].mean()
    labels = np.concatenate([columns["labels"] for columns in ratings[1].values()])
    assert float(weights["mean"] + biases) == pytest.approx(labels.mean(), abs=0.1)


def test_tastes_are_found(interactions: Table, tmp_path: Path) -> None:
    job = make_pair_job(tmp_path, interactions[0], USERS, ITEMS, *NETWORK)
    result, _ = train(job, interactions)
    # All ten items of a taste are above the others, so one of them is the tenth at worst.
    assert result.metrics[NDCG] > 1 / math.log2(11)
    model = load_bundle(job.bundle_dir)[0]
    scores = model.score_items({"user_idx": torch.arange(1, USERS + 1)})[:, 1:]
    best = scores.topk(5).indices + 1
    assert (best % 5 == torch.arange(1, USERS + 1)[:, None] % 5).float().mean() > 0.95


@pytest.mark.parametrize("kind", [(), NETWORK])
def test_same_seed_same_weights(
    ratings: Table, interactions: Table, tmp_path: Path, kind: tuple[str, ...]
) -> None:
    table = interactions if kind else ratings
    short = (*kind, "train.max_epochs=2")
    first, weights = train(make_pair_job(tmp_path / "a", table[0], USERS, ITEMS, *short), table)
    again, repeated = train(make_pair_job(tmp_path / "b", table[0], USERS, ITEMS, *short), table)
    assert first.metrics == again.metrics
    assert all(torch.equal(weights[name], repeated[name]) for name in weights)
    job = make_pair_job(tmp_path / "c", table[0], USERS, ITEMS, *short, "train.seed=2")
    assert train(job, table)[0].metrics != first.metrics


@pytest.mark.parametrize("kind", [(), NETWORK])
def test_a_training_that_failed_resumes_exactly(
    ratings: Table, interactions: Table, tmp_path: Path, kind: tuple[str, ...]
) -> None:
    table = interactions if kind else ratings
    job = make_pair_job(tmp_path / "a", table[0], USERS, ITEMS, *kind, "train.max_epochs=2",
                        "train.checkpoint_every_steps=3")  # fmt: skip
    result, weights = train(job, table)
    broken = dataclasses.replace(
        job, checkpoint_dir=str(tmp_path / "b"), bundle_dir=str(tmp_path / "b/bundle")
    )
    tracker = RecordingTracker(fail_at=4)
    with pytest.raises(ConnectionError):
        run_training(broken, SingleProcess(), tracker, memory_feed(table[1]))
    resumed, repeated = train(broken, table)
    assert resumed.metrics == result.metrics
    assert all(torch.equal(weights[name], repeated[name]) for name in weights)


def test_rows_of_users_and_items_without_an_example_stay(ratings: Table, tmp_path: Path) -> None:
    job = make_pair_job(tmp_path, ratings[0], USERS + 3, ITEMS + 2, "train.max_epochs=1")
    _, weights = train(job, ratings)
    assert not weights["user_factors.weight"][[0, USERS + 1, USERS + 3]].any()
    assert not weights["item_biases.weight"][[0, ITEMS + 1, ITEMS + 2]].any()
    model = load_bundle(job.bundle_dir)[0]
    given = {"user_idx": torch.arange(1, USERS + 4)}
    assert model.knows(given).tolist() == [True] * USERS + [False] * 3
    scores = model.score_items(given)
    expected = (weights["mean"] + weights["user_biases.weight"][1:]).expand(-1, 2)
    torch.testing.assert_close(scores[:, ITEMS + 1 :], expected)


def test_the_loss_of_ratings_by_hand(ratings: Table, tmp_path: Path) -> None:
    """One pair: (4 - 3.25)² + 0.5 * (1 + 4 + 0.0625 + 0.25 + 0.0625 + 0.25)."""
    job = make_pair_job(tmp_path, ratings[0], 1, 1, "train.factor_regularization=0.5")
    objective = make_objective(job, CPU)
    model = MatrixFactorization(MatrixFactorizationConfig(1, 1, 2))
    with torch.no_grad():
        model.mean[:] = 3.5
        model.user_factors.weight[1] = torch.tensor([1.0, -2.0])
        model.user_biases.weight[1] = 0.25
        model.item_factors.weight[1] = torch.tensor([0.5, 0.25])
        model.item_biases.weight[1] = -0.5
    columns = {
        "user_idx": np.array([1]), "items": np.array([[1]]), "labels": np.array([[4.0]]),
        "context": np.array([0]),
    }  # fmt: skip
    channels = choose_channels(job)
    wanted = objective.choose(make_batch(pack_columns(columns, channels), None, channels))
    loss = objective.sum_losses(model, wanted, None)
    assert loss.item() == pytest.approx(0.75**2 + 0.5 * 5.625)
    # Clipped in validation alone: 3.25 + 9 is 5 there.
    with torch.no_grad():
        model.mean += 9.0
    found = objective.validate(model, [wanted.batch], SingleProcess())
    assert found == {RMSE: 1.0, MAE: 1.0}


def test_negatives_are_drawn_evenly_and_are_never_the_pair_itself(
    interactions: Table, tmp_path: Path
) -> None:
    job = make_pair_job(tmp_path, interactions[0], USERS, 5, *NETWORK,
                        "train.negatives_per_positive=400")  # fmt: skip
    objective, channels = make_objective(job, CPU), choose_channels(job)
    columns = {"user_idx": np.array([1, 2]), "items": np.array([[3], [5]]),
               "context": np.array([0, 0])}  # fmt: skip
    batch = make_batch(pack_columns(columns, channels), None, channels)
    torch.manual_seed(1)
    wanted = objective.choose(batch)
    assert wanted.targets[:, 0].tolist() == [3, 5]
    for row, own in zip(wanted.targets[:, 1:], (3, 5), strict=True):
        counts = torch.bincount(row, minlength=6)
        assert counts[own] == counts[0] == 0
        assert counts.sum() == 400
        assert all(70 < counts[item] < 130 for item in range(1, 6) if item != own)
    empty = make_batch(np.zeros((0, channels.size), dtype=np.int32), None, channels)
    model = make_model(job)
    loss = objective.sum_losses(model, objective.choose(empty), None)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0.0
    assert all(weight.grad is not None for weight in model.parameters())


def test_the_protocol_of_windows_refuses_models_of_pairs(tmp_path: Path) -> None:
    settings = load_settings("conf/benchmark.yaml", ["model.kind=matrix_factorization"])
    with pytest.raises(ConfigError, match=r"model\.kind=matrix_factorization has a row a user"):
        run_sequences(tmp_path / "unread", None, settings, tmp_path)
