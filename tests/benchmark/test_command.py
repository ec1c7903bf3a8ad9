"""`recsys benchmark sequences` as a user types it, on small sets whose pattern can be learned."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.benchmark.measure import measure
from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.distributed, pytest.mark.long]

USERS, ITEMS = 300, 60
SMALL = [
    "model.dims=32", "model.dropout=0.1", "train.max_epochs=12", "train.learning_rate=0.01",
    "train.threads_per_rank=1", "train.weight_average_decay=0.9", "train.per_rank_batch_size=32",
]  # fmt: skip


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users walk a ring of items with a step of their own; ids are no numbers from 1."""
    dice = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("sets") / "walks.txt"
    lines = []
    for user in range(USERS):
        start, step, length = dice.integers(ITEMS), dice.integers(1, 3), dice.integers(4, 12)
        items = (start + step * np.arange(length)) % ITEMS
        lines.append(f"u{user} " + " ".join(f"{7 * item + 100}" for item in items))
    lines.append("short 100 107")
    path.write_text("\n".join(lines) + "\n")
    return path


def benchmark(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "recsys.cli.main", "benchmark", "sequences"]
    return subprocess.run(
        [*command, *map(str, arguments)], cwd=REPOSITORY, capture_output=True, text=True
    )


def figures(*arguments: str | Path) -> dict[str, Any]:
    done = benchmark(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1  # one line, whatever was said on the way
    return dict(json.loads(done.stdout))


def test_it_learns_repeats_itself_and_goes_on_from_what_is_there(
    walks: Path, tmp_path: Path
) -> None:
    first = figures(walks, "--seed", "3", "--work", tmp_path / "work", *SMALL)
    assert (first["users"], first["items"], first["seed"]) == (USERS, ITEMS, 3)
    assert 1 <= first["best_epoch"] <= first["epochs"] <= 12
    assert first["seconds"] > 0
    assert first["test"]["ndcg_at_10"] > 0.6  # by chance 0.076
    assert first["test"]["hr_at_10"] > 0.8
    assert first["validation"]["hr_at_10"] > 0.8
    assert "baselines" not in first

    done = benchmark(walks, "--seed", "3", "--work", tmp_path / "work", *SMALL)
    assert "epoch" not in done.stderr  # it was complete, so nothing was trained
    assert "1 users with fewer than three events are left out" in done.stderr
    again = json.loads(done.stdout)
    elsewhere = figures(walks, "--seed", "3", *SMALL)
    for name in ("epochs", "best_epoch", "validation", "test"):
        assert first[name] == again[name] == elsewhere[name]


def test_a_training_that_moves_nothing_ends_as_its_pre_training(walks: Path) -> None:
    small = [*SMALL, "train.patience=12"]
    alone = figures(walks, *small, "train.task=pretraining")
    first = "train.pretraining"
    both = figures(
        walks, *small, f"{first}.enabled=true", f"{first}.learning_rate=0.01",
        f"{first}.max_epochs=12", f"{first}.patience=12", "train.learning_rate=1e-12",
        "train.max_epochs=1",
    )  # fmt: skip
    assert alone["test"]["ndcg_at_10"] > 0.5
    assert both["epochs"] == 1
    assert both["test"] == alone["test"]


def test_two_ranks_attributes_and_baselines(walks: Path, tmp_path: Path) -> None:
    attributes = tmp_path / "attributes.json"
    lists = {str(7 * item + 100): [item // 5, 50 + item % 2] for item in range(ITEMS)}
    attributes.write_text(json.dumps(lists))
    two = ["train.ranks=2", "train.per_rank_batch_size=16"]
    found = figures(walks, "--attributes", attributes, "--baselines", *SMALL, *two)
    assert found["test"]["ndcg_at_10"] > 0.6
    assert set(found["baselines"]) == {"popularity", "item_item", "spark_als"}
    for baseline in found["baselines"].values():
        assert 0 <= baseline["test"]["ndcg_at_10"] < found["test"]["ndcg_at_10"]
    assert found["baselines"]["item_item"]["test"]["hr_at_10"] > 0.5  # what is near on the ring
    assert found["baselines"]["popularity"]["test"]["hr_at_10"] < 0.5


@pytest.mark.parametrize(
    ("arrange", "code", "message"),
    [
        (lambda path: path / "none.txt", 1, "no such file"),
        (lambda path: path, 1, "a folder, not a file"),
        (lambda path: _write(path / "short.txt", "1 2 3\n"), 1, "three events"),
    ],
)
def test_bad_input_is_named(
    tmp_path: Path, arrange: Callable[[Path], Path], code: int, message: str
) -> None:
    done = benchmark(arrange(tmp_path))
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_an_unknown_setting_is_named(walks: Path) -> None:
    done = benchmark(walks, "train.max_epoch=3")
    assert done.returncode == 2
    assert "train.max_epochs" in done.stderr


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_tie_counts_against_the_target() -> None:
    items = np.tile(np.arange(1, 12), (4, 1))
    scores = np.tile(np.arange(11.0, 0.0, -1.0), (4, 1))
    scores[1, 2:5] = 9.0  # the third of three equal ones
    scores[2, 9:] = 2.0  # goes on behind the tenth
    scores[3] = 1.0  # all alike
    found = measure(items, scores, np.array([3, 3, 10, 1]))
    assert found["hr_at_10"] == 0.5
    assert found["ndcg_at_10"] == pytest.approx((1 / np.log2(4) + 1 / np.log2(6)) / 4, abs=1e-5)
