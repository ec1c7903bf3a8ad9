"""Real Horovod ranks: the same training as one rank, and clear words when one dies."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from recsys.bundle import load_bundle
from recsys.errors import TrainingError
from recsys.schemas import PinnedTable
from recsys.train.job import JOB_FILE, TrainingJob
from recsys.train.launch import launch_training
from recsys.train.rank_files import PID_FILE
from tests.distributed.processes import (
    assert_no_ranks_left,
    environment,
    start_launcher,
    wait_until,
)
from tests.distributed.two_ranks import EXACT, KINDS, STEPS
from tests.training_tables import make_job, make_table

pytestmark = pytest.mark.distributed

HOROVODRUN = [sys.executable, "-m", "horovod.runner.launch", "--gloo", "--network-interface", "lo"]
TWO = ("train.launcher=horovodrun", "train.ranks=2")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> PinnedTable:
    folder = tmp_path_factory.mktemp("table")
    return make_table(folder, files={9: [60, 50, 60], 17: [60, 50]}, validation={9: [30, 30]})[0]


def moved(job: TrainingJob, folder: Path) -> TrainingJob:
    return dataclasses.replace(
        job, checkpoint_dir=str(folder / "checkpoints"), bundle_dir=str(folder / "bundle")
    )


def weights_of(job: TrainingJob) -> dict[str, torch.Tensor]:
    return load_bundle(job.bundle_dir)[0].state_dict()


def kill_at_checkpoint(folder: Path, pid_file: Path, deaths: list[int]) -> threading.Thread:
    """SIGKILL the process named in ``pid_file`` once a checkpoint is there."""

    def watch() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            if pid_file.exists() and len(list(folder.glob("*.checkpoint"))) >= 2:
                pid = int(pid_file.read_text())
                os.kill(pid, signal.SIGKILL)
                deaths.append(pid)
                return
            time.sleep(0.005)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int, int], Any]:
    """What ``two_ranks.py`` reported, by (loss, number of ranks, rank)."""
    folder = tmp_path_factory.mktemp("ranks")
    script = [sys.executable, str(Path(__file__).with_name("two_ranks.py")), str(folder)]
    for command in ([*script, "1"], [*HOROVODRUN, "-np", "2", *script, "2"]):
        done = subprocess.run(command, env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return {
        (name, ranks, rank): json.loads((folder / f"{name}-{ranks}-rank-{rank}.json").read_text())
        for name in (*KINDS, "pruned", "waiting")
        for ranks, rank in ((1, 0), (2, 0), (2, 1))
    }


@pytest.mark.parametrize("loss", EXACT)
def test_two_ranks_train_like_one_with_twice_the_batch(
    reports: dict[tuple[str, int, int], Any], loss: str
) -> None:
    one, two = reports[loss, 1, 0], reports[loss, 2, 0]
    assert one["events"] == two["events"]
    assert one["metrics"] == pytest.approx(two["metrics"], rel=1e-3)
    assert one["losses"].keys() == two["losses"].keys()
    for step, value in one["losses"].items():
        assert value == pytest.approx(two["losses"][step], rel=1e-4)
    for name, values in one["weights"].items():
        weight, other = torch.tensor(values), torch.tensor(two["weights"][name])
        if name.endswith("queries_keys_values.bias"):
            # A bias of the keys cancels in the softmax: its gradient is rounding, and Adam turns
            # any gradient into steps of the same size.
            weight, other = (torch.cat([w.chunk(3)[0], w.chunk(3)[2]]) for w in (weight, other))
        torch.testing.assert_close(weight, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("loss", list(KINDS))
def test_both_ranks_end_with_identical_weights_and_metrics(
    reports: dict[tuple[str, int, int], Any], loss: str
) -> None:
    assert reports[loss, 2, 0]["weights"] == reports[loss, 2, 1]["weights"]
    assert reports[loss, 2, 0]["metrics"] == reports[loss, 2, 1]["metrics"]


@pytest.mark.parametrize("loss", ["fp16", "bf16", "int8"])
def test_fewer_bits_change_little(reports: dict[tuple[str, int, int], Any], loss: str) -> None:
    one, two = reports[loss, 1, 0], reports[loss, 2, 0]
    assert one["events"] == two["events"]
    assert one["losses"] != two["losses"]
    for step, value in one["losses"].items():
        assert value == pytest.approx(two["losses"][step], rel=0.02)


def test_compression_sends_as_many_bytes_as_it_says(
    reports: dict[tuple[str, int, int], Any],
) -> None:
    """Of two ranks each sends a gradient once: half of it in each half of the sum."""

    def sent(kind: str) -> float:
        """Without the weight of a rank's targets, a float64 each step."""
        return float(reports[kind, 2, 0]["bytes"]) - 8

    whole = sent("full")
    weights = reports["full", 2, 0]["weights"].values()
    assert whole == 4 * sum(torch.tensor(values).numel() for values in weights)
    assert reports["full", 1, 0]["bytes"] == 0
    assert sent("fp16") == whole / 2
    # Before a validation ranks agree: on what they hold back, or on weights, averages and moments.
    sizes = [torch.tensor(values).numel() for values in weights]
    coded = {"bf16": 2.0, "int8": 260 / 256}
    for loss, bytes_an_entry in coded.items():
        # Each rank's share is whole blocks of 256; few entries go whole, of which all vectors are.
        shares = sum(2 * -(-n // 512) * 256 * bytes_an_entry for n in sizes if n >= 1024)
        small = sum(4 * n for n in sizes if n < 1024)
        held_back = sum(4 * n for n in sizes if n >= 1024) / STEPS if loss == "int8" else 0
        assert sent(loss) == pytest.approx(shares + small + held_back)
    table = 4 * torch.tensor(reports["full", 2, 0]["weights"]["item_embedding.weight"]).numel()
    rows = sent("sparse") - (whole - table)
    assert 0 < rows <= table / 16 * 17  # each with its number
    assert reports["local", 2, 0]["bytes"] == pytest.approx(whole * (1 / 4 + 4 / STEPS), rel=0.01)


def test_ranks_that_step_alone_learn_as_well(reports: dict[tuple[str, int, int], Any]) -> None:
    one, two = reports["local", 1, 0], reports["local", 2, 0]
    assert one["events"] == two["events"]
    losses = [list(report["losses"].values()) for report in (one, two)]
    assert losses[1][-1] < losses[1][0]
    assert losses[1][-1] == pytest.approx(losses[0][-1], rel=0.1)


def test_what_rank_zero_is_told_ends_the_training_of_both(
    reports: dict[tuple[str, int, int], Any],
) -> None:
    for ranks, rank in ((1, 0), (2, 0), (2, 1)):
        assert reports["pruned", ranks, rank] == [True, 2, False]  # pruned, epochs, a bundle


def test_a_rank_that_waits_leaves_its_processor_to_others(
    reports: dict[tuple[str, int, int], Any],
) -> None:
    assert reports["waiting", 2, 0] < 0.25  # it was nearly 1 where there are as many processors


@pytest.mark.parametrize(
    "exchange",
    [
        "compression=none",
        pytest.param("compression=int8", marks=pytest.mark.long),
        pytest.param("tables=sharded", marks=pytest.mark.long),
    ],
)
def test_a_killed_rank_is_named_and_a_rerun_ends_as_if_nothing_had_happened(
    table: PinnedTable, tmp_path: Path, capfd: pytest.CaptureFixture[str], exchange: str
) -> None:
    chosen = f"train.exchange.{exchange}"
    job = make_job(tmp_path / "a", table, *TWO, chosen, "train.max_epochs=8", "train.patience=8")
    undisturbed = launch_training(job)
    assert undisturbed.epochs == 8
    assert "rank 0: " in capfd.readouterr().err

    broken = moved(job, tmp_path / "b")
    folder, deaths = Path(broken.checkpoint_dir), list[int]()
    watcher = kill_at_checkpoint(folder, folder / PID_FILE.format(rank=1), deaths)
    with pytest.raises(TrainingError) as caught:
        launch_training(broken)
    watcher.join()
    assert deaths
    assert "rank 1 of 2 was killed by SIGKILL" in caught.value.what
    step = max(int(path.stem.partition("-")[2]) for path in folder.glob("*.checkpoint"))
    assert f"resumes from the checkpoint at step {step}" in caught.value.do
    assert step > 0
    assert_no_ranks_left(broken)

    resumed = launch_training(broken)
    assert resumed.metrics == undisturbed.metrics
    assert resumed.global_steps == undisturbed.global_steps
    assert resumed.events == undisturbed.events
    first, second = weights_of(job), weights_of(broken)
    assert all(torch.equal(first[name], second[name]) for name in first)

    # Complete: the result is there, no rank is started.
    capfd.readouterr()
    assert launch_training(broken) == resumed
    assert "rank 0: " not in capfd.readouterr().err


def test_a_killed_single_process_resumes_to_the_same_weights(
    table: PinnedTable, tmp_path: Path
) -> None:
    job = make_job(tmp_path / "a", table, "train.max_epochs=15", "train.patience=15")
    launch_training(job)
    broken = moved(job, tmp_path / "b")
    folder, deaths = Path(broken.checkpoint_dir), list[int]()
    broken.save(folder / JOB_FILE)
    watcher = kill_at_checkpoint(folder, folder / PID_FILE.format(rank=0), deaths)
    command = [sys.executable, "-m", "recsys.train.worker", str(folder / JOB_FILE)]
    done = subprocess.run(command, env=environment(), capture_output=True)
    watcher.join()
    assert done.returncode == -signal.SIGKILL
    launch_training(broken)
    first, second = weights_of(job), weights_of(broken)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_ranks_own_message_reaches_the_caller(table: PinnedTable, tmp_path: Path) -> None:
    missing = dataclasses.replace(table.files[0], url=table.files[0].url + ".gone")
    broken = dataclasses.replace(table, files=(missing, *table.files[1:]))
    job = make_job(tmp_path, broken, *TWO)
    with pytest.raises(TrainingError) as caught:
        launch_training(job)
    assert "can't open the training files" in caught.value.what
    assert "rebuild gold" in caught.value.do
    assert_no_ranks_left(job)


def test_more_ranks_than_row_groups(table: PinnedTable, tmp_path: Path) -> None:
    few = dataclasses.replace(table, files=(table.files[0], table.files[-1]))
    with pytest.raises(TrainingError, match=r"2 readers \(train\.ranks.* share 1 row groups"):
        launch_training(make_job(tmp_path, few, *TWO))


@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGINT, marks=pytest.mark.long), signal.SIGTERM, signal.SIGKILL],
)
def test_stopping_the_launcher_leaves_no_rank_behind(
    table: PinnedTable, tmp_path: Path, number: signal.Signals
) -> None:
    job = make_job(tmp_path, table, *TWO, "train.max_epochs=100000", "train.patience=100000")
    launcher = start_launcher(job, tmp_path / "job.json")
    folder = Path(job.checkpoint_dir)
    wait_until(lambda: list(folder.glob("*.checkpoint")))
    launcher.send_signal(number)
    launcher.wait(60)
    assert_no_ranks_left(job)
