"""Sparse gradients: the same training where the formulas agree, and no more than touched rows."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from recsys.bundle import load_bundle
from recsys.config import load_settings
from recsys.errors import ConfigError, TrainingError
from recsys.train.communication import SingleProcess
from recsys.train.exchange.contract import Exchange
from recsys.train.exchange.gradients import SummedGradients
from recsys.train.exchange.rows import RowGradients
from recsys.train.job import TrainingJob
from recsys.train.loop import Trainer, run_training
from recsys.train.moving_average import MovingAverage
from recsys.train.optimization import clip_gradients, make_optimizer
from tests.pair_tables import make_pair_job, make_pairs
from tests.thread_ranks import ThreadRank, run_ranks
from tests.training_tables import RecordingTracker, make_job, make_table, memory_feed

pytestmark = pytest.mark.torch

few = settings(max_examples=25, deadline=None)
row_lists = st.lists(st.integers(0, 8), max_size=12)
PLAIN_SGD = (
    "train.optimizer=sgd",
    "train.momentum=0",
    "train.learning_rate=0.1",
    "train.gradient_clip_norm=0.5",
)


def make_tables(rows: int, sparse: bool, dims: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(rows, dims, sparse=sparse), nn.Linear(dims, 2))


def loss_of(model: nn.Module, rows: Sequence[int]) -> Tensor:
    return model(torch.tensor(rows, dtype=torch.int64)).square().sum()


def optimizer_of(model: nn.Module, *overrides: str) -> torch.optim.Optimizer:
    return make_optimizer(model, load_settings(None, list(overrides)).train)


def sum_rows(rank: ThreadRank, model: nn.Module, batches: Sequence[Sequence[int]]) -> Tensor:
    """The table's gradient after the exchange, of a rank's batches."""
    exchange = RowGradients(rank, SummedGradients(rank))
    optimizer = exchange.attach(optimizer_of(model), model, len(batches))
    for rows in batches:
        if rows:
            loss_of(model, rows).backward()
    with exchange.reduced(optimizer):
        gradient = model[0].weight.grad  # type: ignore[index]
        assert gradient.is_coalesced()
        return gradient


def test_a_single_row_has_no_more_than_its_values() -> None:
    """(Operators that step by strides would read what lies behind them.)"""
    models = [make_tables(9, True) for _ in range(2)]
    for found in run_ranks(2, lambda rank: sum_rows(rank, models[rank.rank], [[1] * rank.rank])):
        assert found.values().stride() == (3, 1)
        assert not found.to_dense()[2:].any()


@few
@given(batches=st.lists(st.lists(row_lists, min_size=2, max_size=2), min_size=1, max_size=4))
def test_rows_of_all_ranks_add_up(batches: list[list[list[int]]]) -> None:
    """Of four ranks that touch most of the nine rows, the table goes whole."""
    models = [make_tables(9, True) for _ in batches]
    found = run_ranks(
        len(batches), lambda rank: sum_rows(rank, models[rank.rank], batches[rank.rank])
    )
    whole = make_tables(9, False)
    every = [row for own in batches for rows in own for row in rows]
    loss_of(whole, every).backward()
    for gradient in found:
        assert torch.equal(gradient.indices(), found[0].indices())
        assert torch.equal(gradient.values(), found[0].values())
        assert gradient.indices()[0].tolist() == sorted(set(every))
        torch.testing.assert_close(gradient.to_dense(), whole[0].weight.grad)  # type: ignore[index]


def test_bytes_grow_with_the_touched_rows_and_not_with_the_table() -> None:
    def send(rank: ThreadRank, model: nn.Module, touched: int) -> int:
        rows = np.random.default_rng(rank.rank).choice(1000, touched, replace=False)
        before = rank.sent_bytes
        sum_rows(rank, model, [[*rows, *rows]])
        return rank.sent_bytes - before

    for size in (2, 4):
        small = [make_tables(1000, True) for _ in range(size)]
        large = [make_tables(2_000_000, True) for _ in range(size)]
        for touched in (10, 100, 200):
            # A row is three floats and its number.
            wanted = [touched * 16 * (size - 1)] * size
            for models in (small, large):
                for model in models:
                    model.zero_grad()
                count = 0 if size == 2 else 2 * 8 * (size - 1) // size  # of T, a float64
                sent = run_ranks(size, lambda rank: send(rank, models[rank.rank], touched))  # noqa: B023
                assert [own - count for own in sent] == wanted


def test_tables_go_whole_where_that_is_less() -> None:
    """Four ranks that touch 20 rows each send 60 rows of 4 floats, or twice 3/4 of the table."""
    for rows, wanted in ((41, 60), (40, 60), (20, 30)):
        sent = run_ranks(
            4,
            lambda rank: (sum_rows(rank, make_tables(rows, True), [range(20)]), rank.sent_bytes),  # noqa: B023
        )
        assert {own for _, own in sent} == {wanted * 16 + 12}, rows


@few
@given(
    touches=st.lists(row_lists, min_size=1, max_size=12),
    decay=st.sampled_from([0.0, 0.3, 0.99]),
    first=st.sampled_from([0, 1000]),
    settled=st.integers(0, 12),
)
def test_rows_left_behind_have_the_same_average(
    touches: list[list[int]], decay: float, first: int, settled: int
) -> None:
    model = make_tables(9, True)
    averages = [copy.deepcopy(model) for _ in range(2)]
    lazy, dense = averages
    follower = MovingAverage(lazy, model, decay)
    generator = torch.Generator().manual_seed(1)
    for number, rows in enumerate(touches):
        touched = torch.tensor(sorted(set(rows)), dtype=torch.int64)
        weight = model[0].weight  # type: ignore[index]
        change = torch.randn(len(touched), 3, generator=generator)
        weight.grad = torch.sparse_coo_tensor(
            touched[None], change, weight.shape, is_coalesced=True
        )
        follower.before_step()
        with torch.no_grad():
            weight.index_add_(0, touched, change)
        follower.after_step(first + number)
        share = min(decay, (1.0 + first + number) / (10.0 + first + number))
        for average, now in zip(dense.parameters(), model.parameters(), strict=True):
            average.data.mul_(share).add_(now.data, alpha=1.0 - share)
        if number == settled:
            follower.settle()
    follower.settle()
    for found, wanted in zip(lazy.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@few
@given(rows=row_lists, largest=st.floats(0.01, 100))
def test_the_norm_counts_sparse_rows(rows: list[int], largest: float) -> None:
    models = [make_tables(9, sparse) for sparse in (True, False)]
    for model in models:
        loss_of(model, rows).backward()
        weight = model[0].weight  # type: ignore[index]
        weight.grad = weight.grad.coalesce() if weight.grad.is_sparse else weight.grad
        clip_gradients(model, largest, SingleProcess())
    for found, wanted in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(found.grad.to_dense(), wanted.grad)


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_rows_touched_in_every_step_move_as_dense_ones_and_others_stay(kind: str) -> None:
    models = [make_tables(9, sparse) for sparse in (True, False)]
    start = copy.deepcopy(models[0])
    chosen = [f"train.optimizer={kind}", "train.weight_decay=0.1", "train.learning_rate=0.1"]
    optimizers = [optimizer_of(model, *chosen) for model in models]
    for _ in range(5):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            loss_of(model, [1, 4, 4]).backward()
            weight = model[0].weight  # type: ignore[index]
            if weight.grad.is_sparse:
                weight.grad = weight.grad.coalesce()
            optimizer.step()
    sparse, dense = models
    others = [row for row in range(9) if row not in (1, 4)]
    before, found, wanted = (part[0].weight.detach() for part in (start, sparse, dense))  # type: ignore[index]
    torch.testing.assert_close(found[[1, 4]], wanted[[1, 4]], rtol=1e-4, atol=1e-5)
    assert torch.equal(found[others], before[others])
    for value in optimizers[0].state[sparse[0].weight].values():  # type: ignore[index]
        if isinstance(value, Tensor):
            assert not value[others].any()
            assert value[[1, 4]].any()
    for found, wanted in zip(sparse[1].parameters(), dense[1].parameters(), strict=True):  # type: ignore[index]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def weights_after(job: TrainingJob, contents: Any) -> dict[str, Tensor]:
    result = run_training(job, SingleProcess(), RecordingTracker(), memory_feed(contents))
    return load_bundle(result.bundle_dir)[0].state_dict()


def assert_trains_alike(make: Any, contents: Any) -> None:
    dense, sparse = (weights_after(make(rows), contents) for rows in ("dense", "sparse"))
    for name, wanted in dense.items():
        torch.testing.assert_close(sparse[name], wanted, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    "chosen",
    [
        ["train.loss=sampled_softmax"],
        ["train.loss=gbce", "train.gradient_accumulation=3"],
        ["train.task=pretraining", "train.loss=gbce"],
        ["train.task=click", "model.head=linear"],
    ],
)
def test_plain_sgd_trains_sequences_as_with_dense_gradients(
    tmp_path: Path, chosen: list[str]
) -> None:
    """Without moments a row that is not touched stays anyway: so both are the same training."""
    table, contents = make_table(
        tmp_path / "t", files={9: [60, 40]}, validation={9: [20]}, write=False
    )

    def make(rows: str) -> TrainingJob:
        few = ("train.negatives=6", "train.max_epochs=2", f"train.exchange.rows={rows}")
        return make_job(tmp_path / rows, table, *PLAIN_SGD, *few, *chosen)

    assert_trains_alike(make, contents)


@pytest.mark.parametrize("kind", ["matrix_factorization", "collaborative_network"])
def test_plain_sgd_trains_pairs_as_with_dense_gradients(tmp_path: Path, kind: str) -> None:
    dice = np.random.default_rng(1)
    users, items = dice.integers(1, 41, 600), dice.integers(1, 31, 600)
    table, contents = make_pairs(users, items, 3.0 + users % 3 - items % 2, np.arange(600) < 60)

    def make(rows: str) -> TrainingJob:
        own = (f"model.kind={kind}", f"train.exchange.rows={rows}", "train.max_epochs=2")
        return make_pair_job(tmp_path / rows, table, 40, 30, *PLAIN_SGD, *own)

    assert_trains_alike(make, contents)


def make_trainer(folder: Path, *overrides: str) -> Trainer:
    table, contents = make_table(folder, files={9: [4]}, validation={9: [4]}, write=False)
    job = make_job(folder, table, *overrides)
    feed = memory_feed(contents)(job, SingleProcess())
    return Trainer(job, SingleProcess(), feed, RecordingTracker())  # type: ignore[arg-type]


def test_auto_is_sparse_where_a_step_touches_few_rows(tmp_path: Path) -> None:
    """At most 8 events of a window and 3 negatives, and padding; the table has 41 rows."""
    small = ("train.loss=sampled_softmax", "train.negatives=3", "train.per_rank_batch_size=1")
    found = make_trainer(tmp_path, *small)
    assert type(found.learner.exchange) is Exchange
    table, contents = make_table(tmp_path, files={9: [4]}, validation={9: [4]}, write=False)
    job = make_job(tmp_path, table, *small)
    object.__setattr__(job, "num_items", 200)
    feed = memory_feed(contents)(job, SingleProcess())
    large = Trainer(job, SingleProcess(), feed, RecordingTracker())  # type: ignore[arg-type]
    assert isinstance(large.learner.exchange, RowGradients)


def test_contradictory_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"rows=sparse, but .*train\.loss=softmax with 40 item"):
        make_trainer(tmp_path, "train.exchange.rows=sparse", "train.loss=softmax")
    with pytest.raises(TrainingError, match=r"model\.kind=two_tower"):
        make_trainer(
            tmp_path, "train.exchange.rows=sparse", "train.loss=gbce", "model.kind=two_tower"
        )
    with pytest.raises(ConfigError, match="ranks send none; set rows=auto"):
        load_settings(None, ["train.exchange.rows=sparse", "train.exchange.average_every_steps=4"])


def test_a_whole_look_up_is_no_sparse_gradient(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, "train.exchange.rows=sparse", "train.loss=gbce")
    table = trainer.learner.model.item_embedding
    functional.mse_loss(table(), torch.ones_like(table.weight)).backward()
    with pytest.raises(AssertionError, match="looks rows up alone"):
        trainer.learner.exchange.reduced(trainer.learner.optimizer).__enter__()
