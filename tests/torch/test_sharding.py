"""Split tables: what ranks make of their parts is what one process makes of the whole."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from recsys.bundle import load_bundle
from recsys.config import load_settings
from recsys.errors import ConfigError, TrainingError
from recsys.models.items import ItemTable
from recsys.models.losses import full_softmax_loss
from recsys.train.communication import SingleProcess
from recsys.train.loop import run_training
from recsys.train.objectives.next_item_ranks import sum_figures
from recsys.train.optimization import clip_gradients, make_optimizer
from recsys.train.sharding import softmax, tables
from recsys.train.sharding.owners import LookUp, Owners
from recsys.train.sharding.parts import PartFiles, deal_rows
from recsys.train.sharding.softmax import rank_targets, sharded_softmax_loss
from recsys.train.sharding.table import ShardedItemTable
from recsys.train.sharding.tables import SplitTables
from tests.thread_ranks import Ring, ThreadRank, run_ranks
from tests.training_tables import ITEMS, RecordingTracker, make_job, make_table, memory_feed

pytestmark = pytest.mark.torch

few = settings(max_examples=25, deadline=None)
sizes, seeds = st.integers(1, 4), st.integers(0, 99)
ROWS, DIMS = 23, 4


@pytest.fixture(autouse=True, scope="module")
def small_chunks() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(softmax, "chunk_positions", lambda *_: 3)
        patch.setattr(tables, "_ROWS_AT_ONCE", 4)
        yield


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def part_of(whole: Tensor, rank: ThreadRank) -> Tensor:
    return whole[rank.rank :: rank.size].clone().requires_grad_()


def whole_of(parts: list[Tensor]) -> Tensor:
    return deal_rows(parts, 0, 1)


@few
@given(
    needed=st.lists(st.lists(st.integers(0, ROWS - 1), max_size=9), min_size=1, max_size=4),
    sparse=st.booleans(),
)
def test_rows_come_from_their_owners_and_gradients_go_back(
    needed: list[list[int]], sparse: bool
) -> None:
    table = draw(1, ROWS, DIMS)

    def look_up(rank: ThreadRank) -> tuple[Tensor, Tensor]:
        rows, weight = torch.tensor(needed[rank.rank], dtype=torch.int64), part_of(table, rank)
        vectors = LookUp.apply(weight, rows, Owners(rank, ROWS), sparse)
        (vectors.square() * (1 + rank.rank)).sum().backward()
        assert weight.grad is not None
        assert weight.grad.is_sparse is sparse
        return vectors.detach(), weight.grad.to_dense()

    found = run_ranks(len(needed), look_up)
    weight = table.clone().requires_grad_()
    for rank, rows in enumerate(needed):
        vectors = functional.embedding(torch.tensor(rows, dtype=torch.int64), weight)
        (vectors.square() * (1 + rank)).sum().backward()
        assert torch.equal(found[rank][0], vectors.detach())
    torch.testing.assert_close(
        whole_of([gradient for _, gradient in found]),
        torch.zeros_like(table) if weight.grad is None else weight.grad,
    )


Positions = tuple[list[Tensor], list[Tensor], list[Tensor]]


def draw_positions(counts: list[int], seed: int) -> Positions:
    """Of each rank: states, targets, weights."""
    hidden = [3.0 * draw(seed + rank, count, DIMS) for rank, count in enumerate(counts)]
    dice = torch.Generator().manual_seed(seed)
    targets = [torch.randint(1, ROWS, (count,), generator=dice) for count in counts]
    return hidden, targets, [torch.rand(count, generator=dice) for count in counts]


@few
@given(
    counts=st.lists(st.integers(0, 8), min_size=1, max_size=4), weighted=st.booleans(), seed=seeds
)
def test_the_softmax_over_parts_is_that_over_the_whole(
    counts: list[int], weighted: bool, seed: int
) -> None:
    table, (hidden, targets, weights) = draw(seed, ROWS, DIMS), draw_positions(counts, seed)

    def measure(rank: ThreadRank) -> tuple[Tensor, Tensor, Tensor]:
        states, weight = hidden[rank.rank].clone().requires_grad_(), part_of(table, rank)
        worth = weights[rank.rank] if weighted else None
        owners = Owners(rank, ROWS)
        loss = sharded_softmax_loss(states, weight, targets[rank.rank], worth, owners)
        (loss / 7.0).backward()
        assert states.grad is not None
        assert weight.grad is not None
        return loss.detach(), states.grad, weight.grad

    found = run_ranks(len(counts), measure)
    states, weight = torch.cat(hidden).requires_grad_(), table.clone().requires_grad_()
    worth = torch.cat(weights) if weighted else None
    wanted = full_softmax_loss(states, weight, torch.cat(targets), worth)
    (wanted / 7.0).backward()
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(sum(loss for loss, _, _ in found), wanted.detach(), **close)
    torch.testing.assert_close(torch.cat([own for _, own, _ in found]), states.grad, **close)
    torch.testing.assert_close(whole_of([own for _, _, own in found]), weight.grad, **close)


@few
@given(counts=st.lists(st.integers(0, 8), min_size=1, max_size=4), seed=seeds)
def test_ranks_are_those_among_all_items(counts: list[int], seed: int) -> None:
    """Vectors and states are whole numbers, so that there are ties, which count against."""
    table, (hidden, targets, _) = draw(seed, ROWS, DIMS).round(), draw_positions(counts, seed)
    hidden = [states.round() for states in hidden]

    def rank_own(rank: ThreadRank) -> tuple[Tensor, Tensor]:
        weight, owners = part_of(table, rank).detach(), Owners(rank, ROWS)
        return rank_targets(owners, weight, hidden[rank.rank], targets[rank.rank])

    for rank, (ranks, losses) in enumerate(run_ranks(len(counts), rank_own)):
        scores = hidden[rank] @ table.T
        scores[:, 0] = -torch.inf
        own = scores.gather(1, targets[rank][:, None])
        assert torch.equal(ranks, (scores >= own).sum(dim=1))
        torch.testing.assert_close(losses, scores.logsumexp(dim=1) - own[:, 0])


def test_a_state_that_is_no_number_ranks_last() -> None:
    hidden, targets = torch.full((1, DIMS), torch.nan), torch.tensor([3])
    owners = Owners(SingleProcess(), ROWS)
    ranks, losses = rank_targets(owners, draw(1, ROWS, DIMS), hidden, targets)
    assert sum_figures(ranks, losses)[:2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("items", [5, 40, 4095, 4096, 9001])
@pytest.mark.parametrize("dims", [8, 9])
def test_parts_start_as_the_whole_would(items: int, dims: int) -> None:
    def make(kind: Any, *given: Any) -> ItemTable:
        torch.manual_seed(3)
        table = kind(*given, items, dims, 0, 0, 0, 0.0)
        table.set_biases(torch.arange(items).float())
        return table

    whole = make(ItemTable).weight
    ranks = [ThreadRank(rank, Ring(3)) for rank in range(3)]
    parts = [make(ShardedItemTable, rank).weight.detach() for rank in ranks]
    assert torch.equal(whole_of(parts), whole)
    assert [len(part) for part in parts] == [len(range(rank, items + 1, 3)) for rank in range(3)]


def test_the_norm_counts_the_parts_of_all_ranks() -> None:
    whole, wanted = draw(1, ROWS, DIMS), nn.Module()
    wanted.table, wanted.rest = nn.Parameter(whole), nn.Parameter(draw(2, 5))
    wanted.table.grad, wanted.rest.grad = draw(3, ROWS, DIMS), draw(4, 5)

    def clip(rank: ThreadRank) -> tuple[Tensor, Tensor]:
        model = nn.Module()
        model.table = nn.Module()
        model.table.sharded = True  # type: ignore[assignment]
        model.table.weight = nn.Parameter(part_of(whole, rank).detach())
        model.table.weight.grad = part_of(wanted.table.grad, rank).detach()  # type: ignore[arg-type]
        model.rest = nn.Parameter(draw(2, 5))
        model.rest.grad = draw(4, 5)
        clip_gradients(model, 0.5, rank)
        return model.table.weight.grad, model.rest.grad

    found = run_ranks(3, clip)
    clip_gradients(wanted, 0.5, SingleProcess())
    torch.testing.assert_close(whole_of([own for own, _ in found]), wanted.table.grad)
    for _, rest in found:
        torch.testing.assert_close(rest, wanted.rest.grad)


@few
@given(rows=st.integers(1, 30), before=sizes, after=sizes)
def test_rows_are_dealt_anew(rows: int, before: int, after: int) -> None:
    whole = torch.arange(rows)
    parts = [whole[rank::before] for rank in range(before)]
    for rank in range(after):
        assert torch.equal(deal_rows(parts, rank, after), whole[rank::after])


class Part:
    """A rank's part of a training, whose tables are filled with numbers of their own."""

    def __init__(self, folder: Path, rank: ThreadRank, *overrides: str) -> None:
        table, _ = make_table(folder, files={9: [4]}, validation={9: [4]}, write=False)
        chosen = ("train.exchange.tables=sharded", *overrides)
        self.job = make_job(folder, table, *chosen)
        self.split = SplitTables(self.job, rank)
        self.model = self.split.make_model()
        self.average = copy.deepcopy(self.model)
        self.optimizer = make_optimizer(self.model, self.job.settings.train)
        self.split.attach(self.model, self.average, self.optimizer)

    def contents(self) -> dict[str, Tensor]:
        state = self.split._moments.state[self.split._weight]
        moments = {name: state[name] for name in ("exp_avg", "exp_avg_sq", "step")}
        names = ("_weight", "_average", "_best")
        return {**{name: getattr(self.split, name).detach() for name in names}, **moments}


def fill(part: Part, rank: ThreadRank) -> dict[str, Tensor]:
    numbers = part.split._weight.detach().clone()
    part.split._weight.grad = torch.ones_like(numbers) * (1 + rank.rank)
    for weight in part.model.parameters():
        weight.grad = torch.ones_like(weight)
    part.optimizer.step()
    part.split._average.data.copy_(numbers * 2)
    part.split.keep_best()
    part.split._average.data.copy_(numbers * 3)
    part.split.save(7)
    return part.contents()


@pytest.mark.parametrize("after", [1, 2, 3])
def test_what_two_ranks_saved_any_number_loads(tmp_path: Path, after: int) -> None:
    ring = Ring(2)
    parts = [Part(tmp_path, ThreadRank(rank, ring)) for rank in range(2)]
    saved = run_ranks(2, lambda rank: fill(parts[rank.rank], rank))
    ring = Ring(after)
    later = [Part(tmp_path, ThreadRank(rank, ring)) for rank in range(after)]
    for part in later:
        part.split.load(7)
    found = [part.contents() for part in later]
    assert {content["step"].item() for content in found} == {1.0}
    for name in found[0].keys() - {"step"}:
        whole = whole_of([content[name] for content in found])
        assert whole.shape == (ITEMS + 1, 16)
        assert torch.equal(whole, whole_of([content[name] for content in saved]))


def test_whole_tables_are_written_some_rows_at_a_time(tmp_path: Path) -> None:
    ring = Ring(3)
    parts = [Part(tmp_path, ThreadRank(rank, ring)) for rank in range(3)]
    models = run_ranks(
        3, lambda rank: SplitTables.collect(_with(parts[rank.rank], rank), parts[rank.rank].model)
    )
    whole = whole_of([part.split._weight.detach() for part in parts])
    written = models[0].state_dict()
    assert torch.equal(written.pop("item_embedding.weight"), whole)
    assert all(torch.equal(parts[0].model.state_dict()[name], written[name]) for name in written)


def _with(part: Part, rank: ThreadRank) -> SplitTables:
    part.model.item_embedding.owners.communicator = part.split.communicator = rank
    return part.split


def test_files_of_steps_without_a_checkpoint_go(tmp_path: Path) -> None:
    files = PartFiles(tmp_path)
    for step in (1, 2):
        files.save(step, 0, 1, {"tables": {}, "values": {}})
    (tmp_path / "step-000000002.checkpoint").touch()
    files.remove_left()
    assert files.load(2, 0, 1) == {"tables": {}, "values": {}}
    (tmp_path / "step-000000002.rows-0-of-1").write_bytes(b"damaged" * 20)
    for step in (1, 2):
        with pytest.raises(TrainingError, match="rank's part of the item table can't be read"):
            files.load(step, 0, 1)


@pytest.mark.parametrize(
    "chosen", [(), ("train.loss=gbce", "train.exchange.rows=sparse", "train.negatives=6")]
)
def test_one_process_trains_a_split_table_like_a_whole_one(
    tmp_path: Path, chosen: tuple[str, ...]
) -> None:
    table, contents = make_table(
        tmp_path / "t", files={9: [60, 40]}, validation={9: [20]}, write=False
    )

    def train(kind: str) -> tuple[dict[str, float], dict[str, Tensor]]:
        where = f"train.exchange.tables={kind}"
        job = make_job(tmp_path / kind, table, *chosen, where, "train.max_epochs=2")
        run = run_training(job, SingleProcess(), RecordingTracker(), memory_feed(contents))
        assert not list(Path(job.checkpoint_dir).glob("step-*"))
        return run.metrics, load_bundle(run.bundle_dir)[0].state_dict()

    (metrics, weights), (wanted, whole) = train("sharded"), train("replicated")
    assert metrics == pytest.approx(wanted, rel=1e-3)
    assert weights.keys() == whole.keys()
    table_name = "item_embedding.weight"
    torch.testing.assert_close(weights[table_name], whole[table_name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "other",
    [
        "train.task=pretraining",
        "train.exclude_own_items=true",
        "model.kind=two_tower",
        "model.neighbor_weight=0.5",
        "train.precision=fp16",
    ],
)
def test_what_a_split_table_can_not_do_is_refused(tmp_path: Path, other: str) -> None:
    with pytest.raises(TrainingError, match=f"tables=sharded can't be combined with {other}"):
        Part(tmp_path, ThreadRank(0, Ring(1)), other)


def test_ranks_that_step_alone_can_not_split_tables() -> None:
    with pytest.raises(ConfigError, match="tables=sharded needs the gradients of all ranks"):
        load_settings(
            None, ["train.exchange.tables=sharded", "train.exchange.average_every_steps=4"]
        )
