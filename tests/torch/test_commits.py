"""What an elastic training goes on from: a copy that later steps leave alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recsys.bundle import load_bundle
from recsys.train.commits import Commits
from recsys.train.communication import SingleProcess
from recsys.train.loop import run_training
from tests.training_tables import RecordingTracker, make_job, make_table, memory_feed

pytestmark = pytest.mark.torch


class HostsChangedError(RuntimeError):
    pass


def test_a_commit_is_a_copy_and_is_checked_after() -> None:
    commits, checked = Commits(), list[float]()
    assert commits.last() is None
    weight, history = torch.ones(3), [{"loss": 1.0}]

    def check() -> None:
        last = commits.last()
        assert last is not None
        checked.append(float(last["model"]["w"].sum()))

    commits.check = check
    commits.keep({"model": {"w": weight}, "state": {"history": history}})
    assert checked == [3.0]
    weight += 1
    history[0]["loss"] = 2.0
    first = commits.last()
    assert first is not None
    assert (first["model"]["w"].tolist(), first["state"]["history"]) == ([1.0] * 3, [{"loss": 1.0}])
    first["model"]["w"] += 1
    second = commits.last()
    assert second is not None
    assert second["model"]["w"].tolist() == [1.0] * 3


def test_interrupted_again_and_again_a_training_ends_as_if_nothing_had_happened(
    tmp_path: Path,
) -> None:
    """Interrupted right after each commit, and once more before the next one."""
    table, contents = make_table(
        tmp_path / "t", files={9: [60, 60]}, validation={9: [20]}, write=False
    )
    setting = "train.commit_every_steps=3"
    whole, broken = (make_job(tmp_path / name, table, setting) for name in ("a", "b"))
    feed = memory_feed(contents)
    expected = run_training(whole, SingleProcess(), RecordingTracker(), feed)

    commits, attempts = Commits(), 0
    result = None
    while result is None:
        commits.check = HostsChanged(after=attempts % 2)
        try:
            result = run_training(
                broken, SingleProcess(), RecordingTracker(), feed, commits=commits
            )
        except HostsChangedError:
            attempts += 1
    assert attempts > 5
    assert (result.metrics, result.events) == (expected.metrics, expected.events)
    first, second = (load_bundle(job.bundle_dir)[0].state_dict() for job in (whole, broken))
    assert all(torch.equal(first[name], second[name]) for name in first)


class HostsChanged:
    """Raises at the check after the first ``after`` ones."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self) -> None:
        if self.left == 0:
            raise HostsChangedError
        self.left -= 1
