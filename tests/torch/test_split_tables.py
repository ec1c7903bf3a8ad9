"""Split tables in a training: how they start, what is saved of them, and the whole in the end."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys.bundle import load_bundle
from recsys.config import load_settings
from recsys.errors import ConfigError, TrainingError
from recsys.models.items import ItemTable
from recsys.train.communication import SingleProcess
from recsys.train.loop import run_training
from recsys.train.optimization import make_optimizer
from recsys.train.sharding import softmax, tables
from recsys.train.sharding.parts import PartFiles, deal_rows
from recsys.train.sharding.table import ShardedItemTable
from recsys.train.sharding.tables import SplitTables
from tests.split_rows import whole_of
from tests.thread_ranks import Ring, ThreadRank, run_ranks
from tests.training_tables import ITEMS, RecordingTracker, make_job, make_table, memory_feed

pytestmark = pytest.mark.torch

few = settings(max_examples=25, deadline=None)
sizes = st.integers(1, 4)


@pytest.fixture(autouse=True, scope="module")
def small_chunks() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(softmax, "chunk_positions", lambda *_: 3)
        patch.setattr(tables, "_ROWS_AT_ONCE", 4)
        yield


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
