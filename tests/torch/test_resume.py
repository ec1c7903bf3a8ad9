"""A training that was cut off goes on from its checkpoint, to the same weights."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from recsys.schemas import PinnedTable
from recsys.train.communication import SingleProcess
from recsys.train.loop import Trainer
from tests.training_tables import (
    RecordingTracker,
    Windows,
    assert_equal_weights,
    make_job,
    memory_feed,
    train,
)

pytestmark = pytest.mark.torch


class OtherRank(SingleProcess):
    """Reads what rank 0 has told it of: the step of a checkpoint, and nothing of its content."""

    rank, size = 1, 2

    def broadcast_object(self, value: Any) -> Any:
        return (None, 7) if value == (None, None) else value


def test_all_ranks_read_the_checkpoint(table: tuple[PinnedTable, Windows], tmp_path: Path) -> None:
    job = make_job(tmp_path, table[0])
    with pytest.raises(ConnectionError):
        train(job, table[1], RecordingTracker(fail_at=9))
    first, other = (
        Trainer(job, rank, memory_feed(table[1])(job, SingleProcess()), RecordingTracker())
        for rank in (SingleProcess(), OtherRank())
    )
    assert first.state.global_step == other.state.global_step == 7
    found, same = first.learner.state_dict(), other.learner.state_dict()
    for kind in ("model", "average"):
        assert all(torch.equal(part, same[kind][name]) for name, part in found[kind].items())


@pytest.mark.parametrize(
    "override",
    [
        "train.target_horizon=3",
        "train.sampled_softmax_above_items=10",
        "train.gradient_accumulation=2",
        "train.optimizer=sgd",
        "train.loss=gbce train.exchange.rows=sparse train.weight_decay=0.01",
        "train.loss=gbce train.exchange.rows=sparse train.optimizer=sgd",
        "train.exchange.tables=sharded",
        "train.loss=gbce train.exchange.rows=sparse train.exchange.tables=sharded",
    ],
)
@pytest.mark.parametrize("fail_at", [3, 20, 40])
def test_a_training_that_failed_resumes_exactly(
    table: tuple[PinnedTable, Windows], tmp_path: Path, fail_at: int, override: str
) -> None:
    undisturbed = RecordingTracker()
    job = make_job(tmp_path / "a", table[0], *override.split(), "train.negatives=6")
    result, weights = train(job, table[1], undisturbed)

    broken = dataclasses.replace(
        job, checkpoint_dir=str(tmp_path / "b"), bundle_dir=str(tmp_path / "b/bundle")
    )
    accumulation = job.settings.train.gradient_accumulation
    before = RecordingTracker(fail_at=fail_at // accumulation)
    with pytest.raises(ConnectionError):
        train(broken, table[1], before)
    after = RecordingTracker()
    resumed, repeated = train(broken, table[1], after)

    assert {**before.losses, **after.losses} == undisturbed.losses
    assert after.started_with == ("run-1" if min(after.losses) else "")
    # A checkpoint every 7 steps, and one at the end of each epoch.
    steps = math.ceil(15 / accumulation)
    assert any((min(after.losses) - steps * epoch) % 7 == 0 for epoch in range(3))
    assert resumed.metrics == result.metrics
    assert resumed.events == result.events
    assert_equal_weights(weights, repeated)


def test_a_release_that_orders_batches_otherwise_begins_anew(
    table: tuple[PinnedTable, Windows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, table[0])
    monkeypatch.setattr("recsys.train.job.BATCH_ORDER", 1)
    with pytest.raises(ConnectionError):
        train(job, table[1], RecordingTracker(fail_at=9))
    monkeypatch.undo()
    after = RecordingTracker()
    train(job, table[1], after)
    assert min(after.losses) == 0


def test_a_resumed_training_that_was_complete_only_reports(
    table: tuple[PinnedTable, Windows], tmp_path: Path
) -> None:
    class FailsAtTheEnd(RecordingTracker):
        def finish(self, *_: object) -> None:
            raise ConnectionError("the server is gone")

    job = make_job(tmp_path, table[0])
    with pytest.raises(ConnectionError):
        train(job, table[1], FailsAtTheEnd())
    tracker = RecordingTracker()
    result, _ = train(job, table[1], tracker)
    assert tracker.losses == {}
    assert result.epochs == 3


def test_a_checkpoint_of_another_job_is_not_continued(
    table: tuple[PinnedTable, Windows], tmp_path: Path
) -> None:
    job = make_job(tmp_path, table[0])
    with pytest.raises(ConnectionError):
        train(job, table[1], RecordingTracker(fail_at=20))
    tracker = RecordingTracker()
    train(dataclasses.replace(job, fingerprint="another"), table[1], tracker)
    assert min(tracker.losses) == 0
