"""Ratings of a day on top of an earlier model: what moves, how far, and what stays to the bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.bundle import load_bundle
from recsys.config import load_settings
from recsys.errors import ConfigError
from recsys.models import MatrixFactorization
from recsys.train.communication import SingleProcess
from recsys.train.job import TrainingJob
from recsys.train.loop import run_training
from recsys.train.start import set_warm_schedule
from tests.pair_tables import make_pair_job, make_pairs
from tests.training_tables import RecordingTracker, Windows, memory_feed

pytestmark = pytest.mark.torch

USERS, ITEMS = 40, 30
ONLINE = ("train.online=true", "train.start_from=champion", "train.gradient_clip_norm=1000")
TABLES = ("user_factors.weight", "user_biases.weight", "item_factors.weight", "item_biases.weight")


def train(job: TrainingJob, contents: Windows) -> MatrixFactorization:
    result = run_training(job, SingleProcess(), RecordingTracker(), memory_feed(contents))
    model = load_bundle(result.bundle_dir)[0]
    assert isinstance(model, MatrixFactorization)
    return model


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    """A training on ratings of all users but the last two, and all items but the last one."""
    dice = np.random.default_rng(1)
    users, items = dice.integers(1, USERS - 1, 900), dice.integers(1, ITEMS, 900)
    labels = 3.0 + users % 3 - items % 2
    table, contents = make_pairs(users, items, labels, np.arange(900) < 100)
    few = ("train.max_epochs=6", "train.learning_rate=0.02")
    job = make_pair_job(tmp_path_factory.mktemp("former"), table, USERS - 2, ITEMS - 1, *few)
    train(job, contents)
    return job


def update(
    folder: Path, former: TrainingJob, users: list[int], items: list[int], *changes: str
) -> tuple[MatrixFactorization, MatrixFactorization]:
    """The model before and after a day whose ratings are all 5, some of them validating."""
    everything = (np.array(users), np.array(items), np.full(len(users), 5.0))
    table, contents = make_pairs(*everything, np.arange(len(users)) % 5 == 0)
    job = make_pair_job(folder, table, USERS, ITEMS, *ONLINE, *changes)
    job = dataclasses.replace(
        job, settings=set_warm_schedule(job.settings), start_from=former.bundle_dir
    )
    before = load_bundle(former.bundle_dir)[0]
    assert isinstance(before, MatrixFactorization)
    return before, train(job, contents)


def moved(before: MatrixFactorization, after: MatrixFactorization, name: str) -> Tensor:
    """Squared distance that each row has moved, as far as there was one."""
    old, new = before.get_parameter(name), after.get_parameter(name)
    return (new[: len(old)] - old).square().sum(dim=1)


DAY_USERS, DAY_ITEMS = [3, 3, 3, 7, 7, 7, 7, 9, 9, 9] * 4, list(range(1, 11)) * 4


def test_what_no_new_rating_touches_stays_to_the_bit(tmp_path: Path, former: TrainingJob) -> None:
    before, after = update(tmp_path, former, DAY_USERS, DAY_ITEMS)
    for name in TABLES:
        touched = {3, 7, 9} if name.startswith("user") else set(range(1, 11))
        old, new = before.get_parameter(name), after.get_parameter(name)
        rows = [row for row in range(len(old)) if row not in touched]
        assert torch.equal(new[rows], old[rows]), name
    assert torch.equal(after.mean, before.mean)
    assert (moved(before, after, "user_factors.weight")[[3, 7, 9]] > 0).all()


@pytest.mark.parametrize("pull", [0.3, 30.0])
def test_what_is_touched_stays_as_near_as_the_pull_says(
    tmp_path: Path, former: TrainingJob, pull: float
) -> None:
    changes = (f"train.online_pull={pull}", "train.online_epochs=40")
    before, after = update(tmp_path, former, DAY_USERS, DAY_ITEMS, *changes)
    trains = torch.arange(len(DAY_USERS)) % 5 != 0
    users, items = torch.tensor(DAY_USERS)[trains], torch.tensor(DAY_ITEMS)[trains]
    # An update only ever lowers (sum of squared errors + pull * squared distances), which is the
    # sum of squared errors where it starts: so much the distances can be at most.
    paid = sum(
        moved(before, after, name)[users if name.startswith("user") else items].sum()
        for name in TABLES
    )
    with torch.no_grad():
        error = (before(users, items) - 5.0).square().sum()
        left = (after(users, items) - 5.0).square().sum()
    assert left + pull * paid <= error
    assert left < error


def test_new_users_and_items_get_rows(tmp_path: Path, former: TrainingJob) -> None:
    users, items = [USERS, 3, USERS, 5, USERS] * 6, [ITEMS, ITEMS, 4, ITEMS, 5] * 6
    _, after = update(tmp_path, former, users, items)
    given = {"user_idx": torch.tensor([USERS - 1, USERS])}
    assert after.knows(given).tolist() == [False, True]
    assert after.knows_items(torch.tensor([ITEMS])).item()


def test_without_a_model_to_go_on_from_it_is_a_training_as_ever(tmp_path: Path) -> None:
    table, _ = make_pairs(np.ones(8, int), np.ones(8, int), np.full(8, 4.0), np.arange(8) < 4)
    assert not make_pair_job(tmp_path, table, 2, 2, *ONLINE).online


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["train.start_from=champion"], r"needs model\.kind=matrix_fact.*not transformer"),
        (["model.kind=matrix_factorization"], r"a model to go on from"),
        (
            [
                "model.kind=matrix_factorization",
                "train.start_from=champion",
                "train.weight_decay=0.1",
            ],
            r"train\.weight_decay=0\.1 moves what no new rating touches",
        ),
    ],
)
def test_settings_that_can_not_be_online_are_refused(changes: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_settings(None, ["train.online=true", *changes])
