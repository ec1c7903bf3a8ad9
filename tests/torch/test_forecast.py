"""What a training will take: from figures of a probe, and a probe of a real one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from recsys.train.communication import SingleProcess
from recsys.train.forecast import count_copies, forecast, ring_seconds
from recsys.train.probe import Probe, _fit, run_probe
from tests.training_tables import make_job, make_table, memory_feed

pytestmark = pytest.mark.torch

TWO = ["train.launcher=horovodrun", "train.ranks=2"]
PROBE = Probe(
    seconds_per_step=0.5,
    seconds_per_padded_event=0.001,
    exchange_seconds=0.1,
    latency_seconds=0.02,
    sent_bytes_per_step=1000.0,
    memory_bytes=10_000,
    weights_bytes=400,
    best_bytes=400,
    steps=20,
)


def test_an_epoch_is_the_sum_of_its_steps(tmp_path: Path) -> None:
    table, _ = make_table(tmp_path, files={9: [32, 32], 17: [16, 16]}, validation={9: [4]})
    found = forecast(make_job(tmp_path, table, *TWO), PROBE)
    # A rank has 32 rows of 9 and 16 of 17, in batches of 16: 3 steps.
    assert found.steps == 3
    assert found.compute_seconds == pytest.approx(3 * 0.5 + (32 * 9 + 16 * 17) * 0.001)
    assert found.exchange_seconds == pytest.approx(3 * (0.1 + 0.02))
    assert found.epoch_seconds == found.compute_seconds + found.exchange_seconds
    assert (found.memory_bytes, found.sent_bytes_per_step) == (10_400, 1000)
    local = forecast(make_job(tmp_path, table, *TWO, "train.exchange.average_every_steps=4"), PROBE)
    assert local.exchange_seconds == pytest.approx(3 * 0.1)
    grouped = forecast(make_job(tmp_path, table, *TWO, "train.gradient_accumulation=2"), PROBE)
    assert grouped.steps == 2


def test_stages_share_their_batches(tmp_path: Path) -> None:
    table, _ = make_table(tmp_path, files={9: [32, 32], 17: [16, 16]}, validation={9: [4]})
    stages = ["train.parallel.pipeline_stages=2", "train.ranks=4", "model.blocks=2"]
    found = forecast(make_job(tmp_path, table, *TWO, *stages), PROBE)
    assert (found.ranks, found.steps) == (4, 3)
    # Beside what was probed: the best weights. A checkpoint takes no more.
    assert found.memory_bytes == 10_000 + 400


@pytest.mark.parametrize(
    ("settings", "copies"),
    [
        (TWO, 6),
        ([*TWO, "train.exchange.compression=top_k"], 7),
        (["train.ranks=1", "train.exchange.compression=top_k"], 6),
        (["train.ranks=1", "train.optimizer=sgd"], 5),
        (["train.ranks=1", "train.optimizer=sgd", "train.momentum=0"], 4),
    ],
)
def test_copies_of_the_weights(tmp_path: Path, settings: list[str], copies: int) -> None:
    table, _ = make_table(tmp_path, files={9: [32, 32]}, validation={9: [4]}, write=False)
    assert count_copies(make_job(tmp_path, table, *settings)) == copies


def test_a_line_through_the_steps() -> None:
    assert _fit([10, 20, 30], [1.2, 2.2, 3.2]) == pytest.approx((0.1, 0.2))
    assert _fit([10, 10], [1.0, 3.0]) == (0.2, 0.0)
    assert _fit([10, 20], [2.0, 1.0]) == (0.1, 0.0)  # noise, not a line
    assert _fit([], []) == (0.0, 0.0)


def test_a_ring_sends_two_parts_of_n_to_each_neighbour() -> None:
    assert ring_seconds(100.0, 1, 10.0, 0.5) == 0.0
    assert ring_seconds(100.0, 2, 10.0, 0.5) == 2 * (0.5 + 5.0)
    assert ring_seconds(100.0, 4, 10.0, 0.5) == 6 * (0.5 + 2.5)


def test_a_probe_times_steps_and_leaves_nothing_behind(tmp_path: Path) -> None:
    table, contents = make_table(tmp_path, files={9: [160], 17: [160]}, validation={9: [8]})
    job = make_job(tmp_path, table)
    before = sorted(tmp_path.rglob("*"))
    probe = run_probe(job, SingleProcess(), memory_feed(contents)(job, SingleProcess()))
    assert probe.steps == 15
    assert probe.seconds_per_step + probe.seconds_per_padded_event > 0
    assert probe.sent_bytes_per_step == 0
    assert probe.memory_bytes > probe.weights_bytes > 0
    assert sorted(tmp_path.rglob("*")) == before
    path = tmp_path / "probe.json"
    probe.save(path)
    assert Probe.load(path) == dataclasses.replace(probe)
