"""Ranks that are lost, late, slow or new: training goes on, with each event once an epoch."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recsys.bundle import load_bundle
from recsys.errors import TrainingError
from recsys.schemas import PinnedTable
from recsys.train.communication import SingleProcess
from recsys.train.job import TrainingJob, TrainingResult
from recsys.train.launch import launch_training
from recsys.train.objectives.next_item_ranks import NDCG
from recsys.train.worker import train_rank
from tests.distributed.processes import (
    assert_no_ranks_left,
    is_stopped,
    plan_fault,
    start_launcher,
    wait_until,
)
from tests.training_tables import Windows, make_job, make_table, memory_feed

pytestmark = [pytest.mark.distributed, pytest.mark.long]

SETTINGS = (
    "train.max_epochs=6", "train.patience=6", "train.learning_rate=0.02", "model.dims=32",
    "train.commit_every_steps=4", "train.launcher=horovodrun", "train.ranks=2",
)  # fmt: skip
ELASTIC = (*SETTINGS, "train.min_ranks=1")
STEPS, BATCHES, STEPS_ALONE = 11, 19, 18
"""Of two ranks in an epoch: steps, and batches with rows; steps of one rank."""
GO_ON = "training goes on with {} ranks"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[PinnedTable, Windows]:
    folder = tmp_path_factory.mktemp("table")
    return make_table(folder, files={9: [60, 50, 60], 17: [60, 50]}, validation={9: [30, 30]})


@pytest.fixture(scope="module")
def undisturbed(table: tuple[PinnedTable, Windows], tmp_path_factory: Any) -> TrainingJob:
    job = make_job(tmp_path_factory.mktemp("undisturbed"), table[0], *SETTINGS)
    launch_training(job)
    return job


def weights_of(job: TrainingJob) -> dict[str, torch.Tensor]:
    return load_bundle(job.bundle_dir)[0].state_dict()


def assert_complete(result: TrainingResult, undisturbed: TrainingJob) -> None:
    """All epochs, each target of each as often as without the fault."""
    expected = TrainingResult.load(undisturbed.result_path)
    assert (result.epochs, result.events) == (expected.epochs, expected.events)
    assert load_bundle(result.bundle_dir)[1].metrics == result.metrics


def with_ranks(job: TrainingJob, ranks: int) -> TrainingJob:
    launcher = "single" if ranks == 1 else "horovodrun"
    train = job.settings.train.model_copy(update={"ranks": ranks, "launcher": launcher})
    return dataclasses.replace(job, settings=job.settings.model_copy(update={"train": train}))


@pytest.fixture
def lose_a_rank(
    table: tuple[PinnedTable, Windows],
    undisturbed: TrainingJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Callable[..., TrainingResult]:
    """Trains with two ranks, of which one dies two steps after a commit, amid an epoch."""

    def lose(*overrides: str) -> TrainingResult:
        plan_fault(monkeypatch, "kill 1 18")
        job = make_job(tmp_path, table[0], *ELASTIC, *overrides)
        result = launch_training(job)
        output = capfd.readouterr().err
        assert output.index(GO_ON.format(2)) < output.index(GO_ON.format(1))
        assert_complete(result, undisturbed)
        # One rank takes what two have left, beginning at the last commit.
        assert result.global_steps == 16 + (BATCHES - 2 * (16 - STEPS)) + 4 * STEPS_ALONE
        assert_no_ranks_left(job)
        return result

    return lose


def test_a_killed_rank_is_done_without(
    lose_a_rank: Callable[..., TrainingResult], table: tuple[PinnedTable, Windows], tmp_path: Path
) -> None:
    result = lose_a_rank()
    # As good as a training may be that nothing happens to: one process with the batches of both.
    one = ("train.launcher=single", "train.ranks=1", "train.per_rank_batch_size=32")
    seeds = []
    for seed in range(2, 6):
        alone = make_job(tmp_path / f"{seed}", table[0], *SETTINGS, *one, f"train.seed={seed}")
        trained = train_rank(alone, SingleProcess(), memory_feed(table[1]))
        seeds.append(trained.metrics[NDCG])
    assert result.metrics[NDCG] >= min(seeds) - (max(seeds) - min(seeds))


def test_ranks_that_step_alone_are_done_without_too(
    lose_a_rank: Callable[..., TrainingResult], undisturbed: TrainingJob
) -> None:
    # The rank dies between two averages, with one under way.
    result = lose_a_rank(
        "train.exchange.average_every_steps=3", "train.exchange.average_delay_steps=1"
    )
    assert result.metrics[NDCG] > 0.8 * TrainingResult.load(undisturbed.result_path).metrics[NDCG]


def test_a_rank_that_comes_later_joins(
    table: tuple[PinnedTable, Windows],
    undisturbed: TrainingJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    hosts, script = tmp_path / "hosts", tmp_path / "discover.sh"
    hosts.write_text("localhost:1\n")
    script.write_text(f"#!/bin/sh\ncat {hosts}\n")
    script.chmod(0o755)
    plan_fault(monkeypatch, "wait 0 30")  # until there are two
    job = make_job(tmp_path, table[0], *ELASTIC, "train.ranks=1", "train.max_ranks=2",
                   f"train.discovery_script={script}")  # fmt: skip

    def add_host() -> None:
        # Not before: an interrupt at an earlier commit would be another case.
        wait_until(lambda: list(Path(job.checkpoint_dir).glob("step-000000028.checkpoint")))
        hosts.write_text("localhost:1\n127.0.0.1:1\n")

    thread = threading.Thread(target=add_host)
    thread.start()
    result = launch_training(job)
    thread.join()
    output = capfd.readouterr().err
    assert output.index(GO_ON.format(1)) < output.index(GO_ON.format(2))
    assert_complete(result, undisturbed)
    # 28 steps were committed; two ranks share the rest of the second epoch.
    assert result.global_steps == 28 + (2 * STEPS_ALONE - 28) // 2 + 4 * STEPS
    assert_no_ranks_left(job)


def test_a_slow_rank_changes_nothing(
    table: tuple[PinnedTable, Windows],
    undisturbed: TrainingJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan_fault(monkeypatch, "stop 1 17")
    job = make_job(tmp_path, table[0], *ELASTIC)

    def wake() -> None:
        wait_until(lambda: is_stopped(job, 1))
        os.kill(is_stopped(job, 1), signal.SIGCONT)

    thread = threading.Thread(target=wake)
    thread.start()
    result = launch_training(job)
    thread.join()
    expected = TrainingResult.load(undisturbed.result_path)
    assert (result.metrics, result.global_steps) == (expected.metrics, expected.global_steps)
    first, second = weights_of(undisturbed), weights_of(job)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_rank_that_hangs_is_killed_and_done_without(
    table: tuple[PinnedTable, Windows],
    undisturbed: TrainingJob,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    plan_fault(monkeypatch, "stop 1 17")
    job = make_job(tmp_path, table[0], *ELASTIC, "train.stall_timeout_seconds=8")
    result = launch_training(job)
    assert GO_ON.format(1) in capfd.readouterr().err
    assert_complete(result, undisturbed)
    assert_no_ranks_left(job)


@pytest.mark.parametrize("fault", ["stop 1 17", "hang 1 17", "late 1 0"])
def test_a_rank_that_others_wait_for_in_vain_is_named(
    table: tuple[PinnedTable, Windows],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    plan_fault(monkeypatch, fault)
    job = make_job(tmp_path, table[0], *SETTINGS, "train.stall_timeout_seconds=8")
    with pytest.raises(TrainingError, match="rank 1 of 2 has not answered for 8 s"):
        launch_training(job)
    assert_no_ranks_left(job)


def test_after_a_dead_launcher_any_number_of_ranks_goes_on(
    table: tuple[PinnedTable, Windows], undisturbed: TrainingJob, tmp_path: Path
) -> None:
    """Two ranks, then one, then two: each is killed amid an epoch."""
    job = make_job(tmp_path, table[0], *SETTINGS, "train.checkpoint_every_steps=4")
    folder = Path(job.checkpoint_dir)
    faults = str(Path(__file__).parent / "faults")
    # A single process is its own rank, hence the variable.
    for ranks, step, more in ((2, 17, {}), (1, 22, {"HOROVOD_RANK": "0"})):
        launcher = start_launcher(
            with_ranks(job, ranks),
            tmp_path / "job.json",
            TEST_FAULT=f"hang 0 {step}",
            PYTHONPATH=os.pathsep.join([faults, str(Path(__file__).parents[2])]),
            **more,
        )
        saved = folder / f"step-{step - step % 4:09d}.checkpoint"
        wait_until(saved.exists)
        launcher.kill()
        launcher.wait()
        assert_no_ranks_left(job)
    result = launch_training(job)
    assert_complete(result, undisturbed)
    # Of the second epoch two ranks took 10 batches, one took 4, and two share the rest.
    assert result.global_steps == 20 + (BATCHES - 14 + 1) // 2 + 4 * STEPS


def test_ranks_that_would_not_do_the_same_all_end(
    table: tuple[PinnedTable, Windows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_fault(monkeypatch, "shards 1 0")
    job = make_job(tmp_path, table[0], *SETTINGS)
    with pytest.raises(TrainingError, match="rank 1 of 2 was started with other files"):
        launch_training(job)
    assert_no_ranks_left(job)


def test_a_script_of_hosts_that_fails(table: tuple[PinnedTable, Windows], tmp_path: Path) -> None:
    job = make_job(tmp_path, table[0], *ELASTIC, "train.discovery_script=echo no >&2; false")
    with pytest.raises(TrainingError, match="ended with exit code 1 and named 0 hosts: no"):
        launch_training(job)
