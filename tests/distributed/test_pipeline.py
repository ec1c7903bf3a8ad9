"""Real stages: they train what one process trains, and none waits in vain for another."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from recsys.bundle import load_bundle
from recsys.errors import TrainingError
from recsys.schemas import PinnedTable
from recsys.train.batch import make_batch
from recsys.train.checkpoint import CheckpointStore, read_checkpoint
from recsys.train.communication import SingleProcess
from recsys.train.job import TrainingJob
from recsys.train.launch import launch_training
from recsys.train.loop import run_training
from recsys.train.worker import make_feed
from tests.distributed.processes import assert_no_ranks_left, environment, plan_fault
from tests.distributed.stages import KINDS, LENGTHS, ROWS, RUNS, STEPS, DealtFeed, split_over
from tests.training_tables import ITEMS, RecordingTracker, make_job, make_table

pytestmark = [pytest.mark.distributed, pytest.mark.long]

HOROVODRUN = [sys.executable, "-m", "horovod.runner.launch", "--gloo", "--network-interface", "lo"]
DIMS = 16
Reports = dict[tuple[str, int, int], list[Any]]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Reports:
    """What the ranks of ``stages.py`` reported, by kind, ranks and stages."""
    folder = tmp_path_factory.mktemp("stages")
    script = [sys.executable, str(Path(__file__).with_name("stages.py")), str(folder)]
    for ranks in RUNS:
        launcher = [*HOROVODRUN, "-np", str(ranks)] if ranks > 1 else []
        command = [*launcher, *script, str(ranks)]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return {
        (name, ranks, stages): [
            json.loads((folder / f"{name}-{ranks}-{stages}" / f"rank-{rank}.json").read_text())
            for rank in range(ranks)
        ]
        for ranks, runs in RUNS.items()
        for name, stages, _ in runs
    }


def assert_alike(weights: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert weights.keys() == other.keys()
    for name, weight in weights.items():
        pair = weight, other[name]
        if name.endswith("queries_keys_values.bias"):
            # A bias of the keys cancels in the softmax: its gradient is rounding, and Adam turns
            # any gradient into steps of the same size.
            pair = tuple(torch.cat([w.chunk(3)[0], w.chunk(3)[2]]) for w in pair)  # type: ignore[assignment]
        torch.testing.assert_close(*pair, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "ranks", "stages"),
    [(name, ranks, stages) for ranks in (2, 4) for name, stages, _ in RUNS[ranks]],
)
def test_stages_and_replicas_train_like_one_process(
    reports: Reports, name: str, ranks: int, stages: int
) -> None:
    (one,), several = reports[name, 1, 1], reports[name, ranks, stages]
    for other in several:
        assert other["metrics"] == pytest.approx(one["metrics"], rel=1e-3)
        assert other["events"] == one["events"]
    assert several[0]["losses"].keys() == one["losses"].keys()
    for step, value in one["losses"].items():
        assert several[0]["losses"][step] == pytest.approx(value, rel=1e-4)
    models = [load_bundle(report["bundle"])[0].state_dict() for report in (one, several[0])]
    assert_alike(*models)


def test_a_rank_holds_its_stage(reports: Reports) -> None:
    """Rank 0 ends with the whole model, the others with what their stages use."""
    table, block = (ITEMS + 1) * DIMS, 12 * DIMS**2 + 13 * DIMS
    whole, rest = reports["sampled", 1, 1][0]["held"], 2 * DIMS
    assert whole == 4 * (table + ITEMS * 0 + 16 * DIMS + 5 * block + rest)
    held = [report["held"] for report in reports["sampled", 4, 4]]
    assert held == [whole, 4 * block, 4 * block, 4 * (table + block + rest)]


def test_states_gradients_and_gathered_weights_are_counted(reports: Reports) -> None:
    """Of the second of two stages with blocks 0-2 and 3-4: the bytes that it sends."""
    states = sum(
        2 * -(-ROWS // 2) * (LENGTHS[step % len(LENGTHS)] - 1) * DIMS for step in range(STEPS)
    )
    steps = -(-STEPS // 3)
    biases = 2 * (16 + 32)  # by distance and by gap, which both stages use
    shared = steps * ((ITEMS + 1) * DIMS + biases)  # a ring of two sends as much as it sums
    block = 12 * DIMS**2 + 13 * DIMS + 2 * (DIMS**2 + DIMS)  # with its gates
    owned = 2 * block + 2 * DIMS
    sent = reports["full", 2, 2][1]["sent"]
    assert sent == 4 * (states + shared + owned)  # an average for all; a checkpoint sends nothing


def test_a_softmax_over_split_items_is_counted(reports: Reports, tmp_path: Path) -> None:
    """Of two ranks that are two stages and have every other item: the bytes that each sends."""
    folder_table = make_table(tmp_path, files={9: [4]}, validation={9: [4]}, write=False)[0]
    job = make_job(tmp_path, folder_table, *KINDS["sharded full"])
    feed = DealtFeed(job, SingleProcess())
    batches = [make_batch(rows, None, feed.options.channels) for rows in feed._batches(0, 0)]
    used = [batch.items.unique() for batch in batches]  # padding is one of them
    odd = sum(int((items % 2).sum()) for items in used)
    targets = sum(len(batch.positions) for batch in batches)
    first, last = reports["sharded full", 2, 2]
    assert targets == last["events"]
    states = sum(batch.items[:, 1:].numel() for batch in batches) * DIMS * 4
    steps = -(-STEPS // 3)
    shared = steps * 2 * (16 + 32) * 4  # biases by distance and by gap
    block = 12 * DIMS**2 + 13 * DIMS + 2 * (DIMS**2 + DIMS)  # with its gates
    # A number for the other rank, and one for each row that it is asked for; rows; gradients.
    numbers = 8 * STEPS
    rows_of_first = numbers + 8 * odd + 4 * DIMS * (STEPS + odd)
    rows_of_last = numbers + 8 * STEPS + 4 * DIMS * (odd + STEPS)  # padding alone
    # How many targets; of each two numbers, a state with its weight and target, or its gradient.
    sums = numbers + 8 * targets
    softmax_of_first, softmax_of_last = 4 * DIMS * targets, 4 * (DIMS + 2) * targets
    gathered_of_first = 4 * (3 * block + 16 * DIMS + 2 * (16 + 32))
    gathered_of_last = 4 * (2 * block + 2 * DIMS)
    assert last["sent_until_validation"] == (
        states + shared + rows_of_last + sums + softmax_of_last + gathered_of_last
    )
    assert first["sent_until_validation"] == (
        states + shared + rows_of_first + sums + softmax_of_first + gathered_of_first
    )


def test_a_probe_tells_what_a_stage_takes(reports: Reports) -> None:
    block, table = 12 * DIMS**2 + 13 * DIMS, (ITEMS + 1) * DIMS + 16 * DIMS
    probes = [report["probe"] for report in reports["bf16", 2, 2]]
    assert probes[0] == probes[1]
    assert probes[0]["weights_bytes"] == 4 * (table + 3 * block)  # of the larger stage
    assert probes[0]["best_bytes"] == 4 * (table + 5 * block + 2 * DIMS)
    assert probes[0]["memory_bytes"] > probes[0]["best_bytes"]
    # Of the rank that sends most: the table's rounded gradient, states and their gradients.
    states = 3 * 6 * 8 * DIMS * 4
    assert probes[0]["sent_bytes_per_step"] >= 2 * (ITEMS + 1) * DIMS + states


def test_a_probe_tells_what_a_stage_with_split_items_takes(reports: Reports) -> None:
    block = 12 * DIMS**2 + 13 * DIMS + 2 * (DIMS**2 + DIMS)  # with its gates
    rows, rest = (ITEMS // 2 + 1) * DIMS, 16 * DIMS + 2 * (16 + 32)
    probes = [report["probe"] for report in reports["sharded full", 2, 2]]
    assert probes[0] == probes[1]
    assert probes[0]["weights_bytes"] == 4 * (rows + 3 * block + rest)
    assert probes[0]["best_bytes"] == 4 * (rows + 5 * block + 2 * DIMS + rest)
    assert probes[0]["memory_bytes"] > probes[0]["best_bytes"]
    # States of all windows, and of their targets.
    assert probes[0]["sent_bytes_per_step"] > 3 * 6 * 8 * DIMS * 4


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> PinnedTable:
    folder = tmp_path_factory.mktemp("table")
    return make_table(folder, files={9: [60, 50], 17: [60]}, validation={9: [30, 30]})[0]


def make_pipeline(folder: Path, table: PinnedTable, *overrides: str) -> TrainingJob:
    chosen = ("model.blocks=2", "model.dropout=0", "train.stall_timeout_seconds=8", *overrides)
    return split_over(make_job(folder, table, *chosen), 2, 2, 2)


def alone(job: TrainingJob) -> TrainingJob:
    """The same job for one process."""
    return split_over(job, 1, 1, None)


def weights_of(job: TrainingJob) -> dict[str, torch.Tensor]:
    return load_bundle(job.bundle_dir)[0].state_dict()


@pytest.fixture(scope="module")
def whole(table: PinnedTable, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What one process trains, undisturbed."""
    job = alone(make_pipeline(tmp_path_factory.mktemp("whole"), table))
    launch_training(job)
    return weights_of(job)


def tensors_of(content: Any) -> list[torch.Tensor]:
    if isinstance(content, torch.Tensor):
        return [content]
    parts = content.values() if isinstance(content, dict) else content
    nested = isinstance(content, dict | list)
    return [tensor for part in parts for tensor in tensors_of(part)] if nested else []


def assert_one_process_ends(job: TrainingJob, whole: dict[str, torch.Tensor]) -> None:
    """No rank is left; one process goes on, to the weights of a training that nothing disturbed."""
    assert_no_ranks_left(job)
    assert launch_training(alone(job)).global_steps == 33
    assert_alike(weights_of(job), whole)


@pytest.mark.parametrize("tables", ["replicated", "sharded"])
def test_a_killed_stage_is_named_and_one_process_goes_on(
    table: PinnedTable,
    whole: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tables: str,
) -> None:
    job = make_pipeline(tmp_path, table, f"train.exchange.tables={tables}")
    plan_fault(monkeypatch, "kill 1 9")
    with pytest.raises(TrainingError) as caught:
        launch_training(job)
    assert "rank 1 of 2 was killed by SIGKILL" in caught.value.what
    assert "resumes from the checkpoint at step 7" in caught.value.do
    files = sorted(Path(job.checkpoint_dir).glob("step-*"))
    rows = [f"rows-{rank}-of-2" for rank in range(2)] if tables == "sharded" else []
    assert [file.name[15:] for file in files] == ["checkpoint", *rows, "stage-1-of-2"]
    for tensor in tensors_of([read_checkpoint(file) for file in files]):
        # A part of a larger storage would take all of it to the disk, and to who reads it.
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
    assert_one_process_ends(job, whole)


def test_stages_go_on_from_one_process_and_one_that_hangs_is_named(
    table: PinnedTable,
    whole: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = make_pipeline(tmp_path, table)
    with pytest.raises(ConnectionError):
        run_training(alone(job), SingleProcess(), RecordingTracker(fail_at=9), make_feed)
    plan_fault(monkeypatch, "stop 1 20")
    with pytest.raises(TrainingError, match="rank 1 of 2 has not answered for 8 s"):
        launch_training(job)
    assert CheckpointStore(Path(job.checkpoint_dir), job.identity).last_step() == 14
    assert_one_process_ends(job, whole)
