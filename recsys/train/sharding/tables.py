"""What the loop does about tables: nothing where every rank has them, or each rank its rows."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from recsys.errors import TrainingError
from recsys.models import Recommender, SequenceTransformer
from recsys.models.sparse_tables import sharded_weights
from recsys.train.communication import Communicator
from recsys.train.job import TrainingJob
from recsys.train.models import make_model, make_transformer
from recsys.train.objectives import Objective, make_objective
from recsys.train.row_optimizer import SplitOptimizer
from recsys.train.sharding.next_item import ShardedNextItem
from recsys.train.sharding.owners import Owners
from recsys.train.sharding.parts import PartFiles
from recsys.train.sharding.table import ShardedItemTable

_ROWS_AT_ONCE = 1 << 15
_WEIGHT, _AVERAGE, _BEST = "weight", "average", "best"


class Tables:
    """Every rank has all tables: what belongs to the model is saved and written with it."""

    def __init__(self, job: TrainingJob, communicator: Communicator) -> None:
        self.job, self.communicator = job, communicator

    def make_model(self) -> Recommender:
        """The untrained model of this rank."""
        return make_model(self.job)

    def make_objective(self, device: torch.device) -> Objective:
        """The objective of the job."""
        return make_objective(self.job, device)

    def attach(self, model: nn.Module, average: nn.Module, optimizer: Optimizer) -> None:
        """Told before the first step what there is to save."""

    def keep_best(self) -> None:
        """Keep the average as it is now, beside the best weights."""

    def use_best(self) -> None:
        """Put what was kept into the model."""

    def save(self, global_step: int) -> None:
        """Called by all ranks before rank 0 writes a checkpoint."""

    def load(self, global_step: int) -> None:
        """Called by all ranks when a checkpoint was read."""

    def collect(self, model: Any) -> Any:
        """Called by all ranks in the end: on rank 0 the model with whole tables."""
        return model

    def clear(self) -> None:
        """Remove files: the training is complete."""


class SplitTables(Tables):
    """The item table is split by rows (``ShardedItemTable``), and with it all that is as large.

    A rank's part of weights, average, best average and moments goes into a file of its own beside
    the checkpoint (``PartFiles``). In the end rank 0 writes the whole table to a file, some rows of
    every rank at a time, and maps it: it never holds the moments of others, and of their rows only
    those on their way and what the system keeps of the file in its cache.

    Raises:
        TrainingError: the settings ask for what a split table can't do.
    """

    def __init__(self, job: TrainingJob, communicator: Communicator) -> None:
        super().__init__(job, communicator)
        check_sharding(job)
        self._files = PartFiles(Path(job.checkpoint_dir))

    def make_model(self) -> Recommender:
        return make_transformer(self.job, partial(ShardedItemTable, self.communicator))

    def make_objective(self, device: torch.device) -> Objective:
        return ShardedNextItem(self.job, device)

    def attach(self, model: nn.Module, average: nn.Module, optimizer: Optimizer) -> None:
        assert isinstance(optimizer, SplitOptimizer), "made for a model with split tables"
        ((self._name, self._weight),) = sharded_weights(model).items()
        self._average = average.get_parameter(self._name)
        self._moments = optimizer.rows
        self._best: Tensor | None = None

    def keep_best(self) -> None:
        if self._best is None:
            self._best = torch.empty_like(self._average)
        self._best.copy_(self._average.detach())

    @torch.no_grad()
    def use_best(self) -> None:
        assert self._best is not None, "an epoch was validated"
        self._weight.copy_(self._best)

    def save(self, global_step: int) -> None:
        if self.communicator.rank == 0:
            self._files.remove_left()
        self.communicator.barrier()  # or what another rank has written already would go as well
        tables = {_WEIGHT: self._weight.detach(), _AVERAGE: self._average.detach()}
        if self._best is not None:
            tables[_BEST] = self._best
        values: dict[str, Any] = {}
        for name, value in self._moments.state.get(self._weight, {}).items():
            is_table = isinstance(value, Tensor) and value.shape == self._weight.shape
            (tables if is_table else values)[name] = value
        part = {"tables": tables, "values": values}
        self._files.save(global_step, self.communicator.rank, self.communicator.size, part)
        # A checkpoint counts from the moment it is there: then all parts must be.
        self.communicator.barrier()

    @torch.no_grad()
    def load(self, global_step: int) -> None:
        part = self._files.load(global_step, self.communicator.rank, self.communicator.size)
        device = self._weight.device
        # Copies: what was read is mapped to files that are removed later.
        tables = {name: table.to(device, copy=True) for name, table in part["tables"].items()}
        self._weight.copy_(tables.pop(_WEIGHT))
        self._average.copy_(tables.pop(_AVERAGE))
        self._best = tables.pop(_BEST, None)
        if tables or part["values"]:
            self._moments.state[self._weight] = {**tables, **part["values"]}

    def collect(self, model: Any) -> Any:
        folder = Path(self.job.bundle_dir).parent
        whole = _collect_rows(model.item_embedding.owners, self._weight.detach(), folder)
        if self.communicator.rank != 0:
            return model
        with torch.device("meta"):
            written = SequenceTransformer(model.config)
        written.load_state_dict({**model.state_dict(), self._name: whole}, assign=True)
        return written

    def clear(self) -> None:
        self._files.remove_left()


def check_sharding(job: TrainingJob) -> None:
    """Refuse what a split table can't do.

    Raises:
        TrainingError: it names both settings.
    """
    train, model = job.settings.train, job.settings.model
    refused = {
        f"model.kind={model.kind}": model.kind != "transformer",
        f"train.task={train.task}": job.settings.task != "next_item",
        f"model.neighbor_weight={model.neighbor_weight}": model.neighbor_weight > 0,
        "model.attributes=true": model.attributes and bool(job.links.get("attribute")),
        f"model.head={model.head}": model.head != "none",
        f"train.start_from={train.start_from}": bool(job.start_from),
        "train.exclude_own_items=true": train.exclude_own_items,
        "train.precision=fp16": train.precision == "fp16",
        f"train.min_ranks={train.min_ranks}": train.elastic,
    }
    for setting, wanted in refused.items():
        if wanted:
            raise TrainingError(
                f"train.exchange.tables=sharded can't be combined with {setting}",
                do="split tables are for the transformer's next-item task on items without links; "
                "set train.exchange.tables=replicated, or change the other setting",
            )


def _collect_rows(owners: Owners, own: Tensor, folder: Path) -> Tensor:
    """On rank 0 the whole table, float32 [rows, width], mapped to a file that has no name."""
    communicator, width = owners.communicator, own.shape[1]
    first, size = communicator.rank == 0, communicator.size
    whole = own.new_zeros(0, device="cpu")
    if first:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "item-table.whole"
        whole = torch.from_file(str(path), shared=True, size=owners.rows * width)
        whole = whole.view(owners.rows, width)
        path.unlink()  # the space is given back when the mapping ends
    for start in range(0, owners.count_of(0), _ROWS_AT_ONCE):
        part = own[start : start + _ROWS_AT_ONCE].cpu()
        splits = [len(part)] + [0] * (size - 1)
        got = communicator.start_alltoall(part, splits, "rows.whole")()
        if first:
            counts = [
                min(_ROWS_AT_ONCE, max(0, owners.count_of(rank) - start)) for rank in range(size)
            ]
            for rank, rows in enumerate(got.split(counts)):
                stop = rank + size * (start + len(rows))
                whole[rank + size * start : stop : size] = rows
    return whole
