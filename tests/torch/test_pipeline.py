"""Stages in one process: what each of them has, computes, and tells the others."""

from __future__ import annotations

import contextlib
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys.models import SequenceTransformer
from recsys.models.losses import full_softmax_loss
from recsys.train.batch import Batch, make_batch
from recsys.train.feed import FeedOptions, InMemoryFeed
from recsys.train.job import TrainingJob
from recsys.train.models import make_transformer
from recsys.train.objectives import Wanted, choose_channels, make_objective
from recsys.train.objectives.next_item import NextItem
from recsys.train.pipeline.gradients import make_stage_gradients
from recsys.train.pipeline.grid import Grid, deal_blocks
from recsys.train.pipeline.late_softmax import LateSoftmax
from recsys.train.pipeline.micro_batches import split_wanted
from recsys.train.pipeline.schedule import Pipeline, StagePart
from recsys.train.pipeline.weights import StageWeights, find_stages
from recsys.train.sharding.table import ShardedItemTable
from tests.split_rows import draw, part_of, whole_of
from tests.thread_ranks import ThreadRank, run_ranks
from tests.training_tables import ITEMS, make_job, make_table, make_windows, pack_columns

pytestmark = pytest.mark.torch

few = settings(max_examples=30, deadline=None)
RICH = [
    "model.blocks=5", "model.dropout=0", "model.positions=relative", "model.time_gaps=true",
    "model.event_types=true", "train.recency_half_life_days=7", "train.exclude_own_items=true",
]  # fmt: skip
CPU = torch.device("cpu")


def make_rich(folder: Path, *overrides: str) -> TrainingJob:
    table, _ = make_table(folder, files={9: [4]}, validation={9: [4]}, write=False)
    return make_job(folder, table, *RICH, *overrides)


def draw_batch(job: TrainingJob, rows: int) -> Batch:
    import numpy as np

    channels = choose_channels(job)
    found = pack_columns(make_windows(rows, 9, np.random.default_rng(rows)), channels)
    batch = make_batch(found, None, channels)
    return Batch(**{**vars(batch), "weights": torch.rand(batch.items.shape)})


@pytest.mark.parametrize(
    ("blocks", "stages", "sizes"),
    [(4, 4, [1, 1, 1, 1]), (5, 2, [3, 2]), (6, 4, [2, 1, 2, 1]), (7, 3, [3, 2, 2])],
)
def test_every_block_has_one_stage(blocks: int, stages: int, sizes: list[int]) -> None:
    dealt = deal_blocks(blocks, stages)
    assert [len(part) for part in dealt] == sizes
    assert [number for part in dealt for number in part] == list(range(blocks))


def test_neighbouring_ranks_are_stages_of_one_replica() -> None:
    grids = [Grid(rank, 6, 3) for rank in range(6)]
    assert [(g.replica, g.stage) for g in grids] == [(r, s) for r in (0, 1) for s in (0, 1, 2)]
    assert [g.neighbors for g in grids] == [[1], [0, 2], [1], [4], [3, 5], [4]]
    assert grids[0].ranks_of_stages([0, 2]) == [0, 2, 3, 5]
    assert grids[0].ranks_of_replica(1) == [3, 4, 5]
    assert [g.is_first for g in grids[:3]] == [True, False, False]
    assert [g.is_last for g in grids[:3]] == [False, False, True]


@few
@given(rows=st.integers(1, 11), count=st.integers(1, 6), weighted=st.booleans())
def test_micro_batches_have_the_targets_of_the_batch_between_them(
    tmp_path_factory: pytest.TempPathFactory, rows: int, count: int, weighted: bool
) -> None:
    batch = draw_batch(make_rich(tmp_path_factory.mktemp("t")), rows)
    targets = torch.arange(1, len(batch.positions) + 1)
    weights = targets / 2 if weighted else None
    parts = split_wanted(Wanted(batch, targets, weights), count)
    assert len(parts) == count
    assert {part.batch.items.shape for part in parts} == {(-(-rows // count), 9)}
    items = torch.cat([part.batch.items for part in parts])
    assert torch.equal(items[:rows], batch.items)
    assert not items[rows:].any()
    assert torch.equal(torch.cat([part.targets for part in parts]), targets)
    for name in ("hours", "event_types"):
        whole = torch.cat([getattr(part.batch, name) for part in parts])
        assert torch.equal(whole[:rows], getattr(batch, name))
    # Each position points to the event that it pointed to in the batch.
    inputs = batch.items[:, :-1].flatten()[batch.positions]
    found = [part.batch.items[:, :-1].flatten()[part.batch.positions] for part in parts]
    assert torch.equal(torch.cat(found), inputs)
    if weighted:
        assert torch.equal(torch.cat([cast(Tensor, part.weights) for part in parts]), weights)


class Stages(list[Pipeline]):
    """The stages of one replica, which share one model and hand states on by hand."""

    def __init__(self, job: TrainingJob, model: SequenceTransformer, count: int) -> None:
        objective = cast(NextItem, make_objective(job, CPU))
        for rank in range(count):
            grid = Grid(rank, count, count)
            part = StagePart(model, grid, contextlib.nullcontext)
            self.append(Pipeline(part, objective, grid, cast(Any, None), 3))

    def backward(self, wanted: Wanted, drawn: Any, divisor: float) -> Tensor:
        parts = split_wanted(wanted, 3)
        for stage in self:
            stage.part.touched = stage._touch(wanted, drawn)
            stage.part.parts, stage._drawn, stage._divisor = parts, drawn, divisor
        for number in range(3):
            at = torch.tensor([number])
            states = [parts[number].batch.items[:, :-1]]
            inputs = []
            for stage in self:
                inputs.append(states[-1].detach())
                if len(inputs) > 1:
                    inputs[-1].requires_grad_()
                states.append(stage.part(inputs[-1], at))
            self[-1]._measure(states[-1], at).backward()
            for given_back, made in zip(inputs[:0:-1], states[-2:0:-1], strict=True):
                made.backward(given_back.grad)
        for stage in self:
            if stage.part.touched is not None:
                stage.part.touched.backward()
        return self[-1]._total


@pytest.mark.parametrize("stages", [2, 3, 5])
@pytest.mark.parametrize("chosen", [[], ["train.loss=gbce", "train.negatives=9"]])
def test_gradients_of_stages_are_those_of_the_whole(
    tmp_path: Path, stages: int, chosen: list[str]
) -> None:
    job = make_rich(tmp_path, *chosen)
    model, objective = make_transformer(job), make_objective(job, CPU)
    wanted = objective.choose(draw_batch(job, 7))
    drawn = objective.draw(3)
    loss = objective.sum_losses(model, wanted, drawn)
    (loss / 11.0).backward()
    expected = {name: cast(Tensor, part.grad) for name, part in model.named_parameters()}
    model.zero_grad()
    total = Stages(job, model, stages).backward(wanted, drawn, 11.0)
    torch.testing.assert_close(total, loss.detach())
    for name, part in model.named_parameters():
        torch.testing.assert_close(part.grad, expected[name], rtol=1e-4, atol=1e-6)


def test_weights_that_stages_share(tmp_path: Path) -> None:
    blocks = deal_blocks(5, 3)
    model = make_transformer(make_rich(tmp_path))
    stages = {name: find_stages(name, blocks) for name, _ in model.named_parameters()}
    shared = {name: found for name, found in stages.items() if len(found) > 1}
    assert shared == {
        "item_embedding.weight": (0, 2),
        "relative_bias.by_distance": (0, 1, 2),
        "relative_bias.by_gap": (0, 1, 2),
    }
    assert stages["type_embedding.weight"] == (0,)
    assert stages["blocks.1.attention_output.weight"] == (0,)
    assert stages["blocks.2.attention_output.weight"] == (1,)
    assert stages["output_norm.bias"] == (2,)


def test_stages_release_their_parts_and_make_a_whole_again(tmp_path: Path) -> None:
    job = make_rich(tmp_path)
    torch.manual_seed(1)
    whole = make_transformer(job).state_dict()

    def release(rank: ThreadRank) -> tuple[int, dict[str, Tensor]]:
        model = make_transformer(job)
        model.load_state_dict(whole)
        grid = Grid(rank.rank, rank.size, 3)
        replica = rank.split([grid.ranks_of_replica(replica) for replica in range(grid.replicas)])
        weights = StageWeights(model, grid)
        weights.release(model)
        held = sum(part.numel() for part in model.parameters())
        found = weights.gather(weights.owned, replica)
        weights.start_whole(model, found)
        return held, model.state_dict()

    size = sum(part.numel() for part in whole.values())
    for held, state in run_ranks(6, release):
        assert held < size
        assert all(torch.equal(state[name], part) for name, part in whole.items())


@pytest.mark.parametrize("compression", ["none", "fp16", "bf16"])
def test_gradients_add_up_over_the_ranks_that_share_a_weight(
    tmp_path: Path, compression: str
) -> None:
    job = make_rich(tmp_path)

    def add_up(rank: ThreadRank) -> dict[str, float]:
        model, grid = make_transformer(job), Grid(rank.rank, 4, 2)
        weights = StageWeights(model, grid)
        exchange = make_stage_gradients(rank, grid, weights, compression, micro_batches=2)
        optimizer = torch.optim.SGD(weights.own.values())
        exchange.attach(optimizer, model, 1)
        for weight in weights.own.values():
            weight.grad = torch.full_like(weight, 2.0**rank.rank)
        assert exchange.start_divisor(10.0**grid.replica)() == 11.0
        with exchange.reduced(optimizer):
            found = {name: cast(Tensor, weight.grad) for name, weight in weights.own.items()}
            assert all(gradient.unique().numel() == 1 for gradient in found.values())
            return {name: gradient.mean().item() for name, gradient in found.items()}

    for rank, sums in enumerate(run_ranks(4, add_up)):
        of_stage = 2.0**rank + 2.0 ** (rank ^ 2)
        for name, value in sums.items():
            shared = name.startswith(("item_embedding", "relative_bias"))
            assert value == (15.0 if shared else of_stage), name


def test_stages_read_the_same_windows_and_share_out_validation(tmp_path: Path) -> None:
    table, contents = make_table(
        tmp_path, files={9: [20, 20, 20, 20]}, validation={9: [3, 4, 5, 6]}, write=False
    )
    rows = {url: columns["items"] for url, columns in contents.items()}

    def read(rank: int) -> tuple[int, list[Tensor], int]:
        options = FeedOptions(1, rank, 4, 8, 30, 2, stages=2)
        feed = InMemoryFeed(table, rows, options)
        with feed.epoch(0) as batches, feed.validation() as validation:
            items = [batch.items for batch in batches]
            return feed.steps_per_epoch(0), items, sum(len(batch.items) for batch in validation)

    steps, items, validated = zip(*map(read, range(4)), strict=True)
    assert steps == (5, 5, 5, 5)
    assert all(map(torch.equal, items[0], items[1]))
    assert all(map(torch.equal, items[2], items[3]))
    assert not any(map(torch.equal, items[0], items[2]))
    assert sorted(validated) == [3, 4, 5, 6]


@few
@given(
    counts=st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=3),
    weighted=st.booleans(),
)
def test_the_late_softmax_is_that_of_all_micro_batches(
    counts: list[list[int]], weighted: bool
) -> None:
    """Targets of each micro-batch of each rank; one without any has an empty batch, or no loss."""
    table, dims = draw(1, ITEMS + 1, 8), 8
    states = [draw(2 + rank, sum(own), dims).requires_grad_() for rank, own in enumerate(counts)]
    targets = [torch.arange(1, 1 + sum(own)) for own in counts]
    worth = [target / 3 if weighted else None for target in targets]

    def train(rank: ThreadRank) -> tuple[Tensor, Tensor]:
        own = counts[rank.rank]
        items = ShardedItemTable(rank, ITEMS, dims)
        items.weight = torch.nn.Parameter(part_of(table, rank).detach())
        late = LateSoftmax(items, contextlib.nullcontext)
        for _ in range(2):  # a batch leaves nothing behind for the next one
            edges = [sum(own[:number]) for number in range(len(own) + 1)]
            losses = [late.keep(states[rank.rank][a:b]) for a, b in pairwise(edges)]
            wanted = Wanted(cast(Any, None), targets[rank.rank], worth[rank.rank])
            total = late.measure(wanted if own else None, 7.0)
            for loss in losses:
                loss.backward()
        assert items.weight.grad is not None
        return total, items.weight.grad

    found = run_ranks(len(counts), train)
    whole, weight = torch.cat(states).detach().requires_grad_(), table.clone().requires_grad_()
    weights = torch.cat([cast(Tensor, part) for part in worth]) if weighted else None
    wanted = full_softmax_loss(whole, weight, torch.cat(targets), weights)
    (2 * wanted / 7.0).backward()
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(sum(total for total, _ in found), wanted.detach(), **close)
    torch.testing.assert_close(whole_of([part for _, part in found]), weight.grad, **close)
    gradients = [torch.zeros_like(part) if part.grad is None else part.grad for part in states]
    torch.testing.assert_close(torch.cat(gradients), whole.grad, **close)
