"""One batch through the stages of a replica: micro-batches, one forward, one backward (1F1B).

torch's ``Schedule1F1B`` says what a stage does when, and carries states and their gradients. All
stages read the same windows: so masks, times and types are there, and states alone travel.

With the softmax over a split catalogue, all forward passes come before all backward ones instead
(``ScheduleGPipe``, see ``late_softmax``).

Source: Narayanan et al. 2021, "Memory-Efficient Pipeline-Parallel DNN Training", section 3.2
(PipeDream-Flush), and section 3.3 for replicas of stages.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.nn import functional

from recsys.models import SequenceTransformer
from recsys.models.sampled_losses import Negatives
from recsys.train.objectives import Wanted
from recsys.train.objectives.next_item import NextItem
from recsys.train.pipeline.grid import Grid, deal_blocks
from recsys.train.pipeline.late_softmax import LateSoftmax, LateStage
from recsys.train.pipeline.link import Link
from recsys.train.pipeline.micro_batches import split_wanted
from recsys.train.sharding.table import ShardedItemTable

Schedule = Schedule1F1B | ScheduleGPipe
_SHAPES_KEPT = 8
_FLOAT_BYTES = 4


class TouchedVectors:
    """Vectors of the items of a batch, made once: micro-batches add their gradients up.

    Where the table is split over ranks, both look-up and return are messages of all ranks; so they
    come before the first micro-batch and after the last one.

    Args:
        model: has the item table, or its part of it.
        used: item_idx, ascending, each once, int64 [used]; None: all items.
    """

    def __init__(self, model: SequenceTransformer, used: Tensor | None) -> None:
        self._made, self._used = model.item_vectors(used), used
        self.vectors = self._made.detach().requires_grad_()

    def rows_of(self, items: Tensor) -> Tensor:
        """Rows of ``vectors``, shaped like ``items`` (item_idx, each of them used)."""
        return items if self._used is None else torch.searchsorted(self._used, items.contiguous())

    def item_vectors(self, items: Tensor | None = None) -> Tensor:
        """As a model's: what objectives ask for."""
        if items is None:
            return self.vectors
        return functional.embedding(self.rows_of(items), self.vectors)

    def backward(self) -> None:
        """Hand the gradient on to the table."""
        gradient = self.vectors.grad
        self._made.backward(torch.zeros_like(self.vectors) if gradient is None else gradient)


class StagePart(nn.Module):
    """What one stage computes: its blocks, with the input before or the read-out behind them.

    Attributes:
        parts: micro-batches in progress, on the device.
        touched: vectors that they need here; None in the middle.
    """

    def __init__(
        self,
        model: SequenceTransformer,
        grid: Grid,
        autocast: Callable[[], AbstractContextManager[object]],
    ) -> None:
        super().__init__()
        self._grid, self.autocast, self.model = grid, autocast, model
        own = deal_blocks(model.config.blocks, grid.stages)[grid.stage]
        self._blocks = [model.blocks[number] for number in own]
        self.parts: list[Wanted] = []
        self.touched: TouchedVectors | None = None

    def forward(self, x: Tensor, number: Tensor) -> Tensor:
        """States float32 [rows, length, dims] of a micro-batch.

        Args:
            x: of the stage before, shaped alike; for the first stage item_idx [rows, length].
            number: of the micro-batch, int64 [1], on the CPU.
        """
        batch = self.parts[int(number)].batch
        items, given = batch.items[:, :-1], batch.inputs(self.model.config.looks_at)
        with self.autocast():
            if self._grid.is_first:
                assert self.touched is not None, "set before a batch"
                rows = self.touched.rows_of(x)
                x = self.model.embed(rows, self.touched.vectors, given.get("event_types"))
            x = self.model.run_blocks(x, items, self._blocks, given.get("hours"))
            return (self.model.read_out(x, items) if self._grid.is_last else x).contiguous()


class Pipeline:
    """Takes batches through the stages; gradients are left in the weights of this rank's stage.

    Args:
        part: of this rank.
        objective: measures losses on the last stage.
        grid, link: of this rank.
        micro_batches: of a batch.

    Attributes:
        sent_bytes: of states and their gradients that this rank has sent.
    """

    def __init__(
        self, part: StagePart, objective: NextItem, grid: Grid, link: Link, micro_batches: int
    ) -> None:
        self.part, self.objective, self.grid = part, objective, grid
        self._link, self._count = link, micro_batches
        table = part.model.item_embedding
        self._sharded = table.sharded
        self._late: LateSoftmax | None = None
        if isinstance(table, ShardedItemTable) and objective.kind == "softmax":
            self._late = LateSoftmax(table, part.autocast)
        self._schedules: dict[tuple[int, int], Schedule] = {}
        self._wanted: Wanted | None = None
        self._drawn: Negatives | None = None
        self._divisor = 1.0
        self._total = torch.zeros(())
        self.sent_bytes = 0

    def run(self, wanted: Wanted, drawn: Negatives | None, divisor: float) -> Tensor:
        """Forward and backward of one batch.

        Args:
            wanted: the same on all stages of a replica.
            drawn: of the objective for this step.
            divisor: of the losses.

        Returns:
            Their sum on the last stage, float32 []; 0 on the others.

        Raises:
            LostStageError: a neighbour is gone.
        """
        device = self.objective.device
        self._total = torch.zeros((), device=device)
        is_empty = not len(wanted.targets)
        if is_empty and not self._sharded:
            return self._total
        self.part.touched = touched = self._touch(wanted, drawn)
        self._wanted, self._drawn, self._divisor = wanted, drawn, divisor
        if not is_empty:
            parts = split_wanted(wanted, self._count)
            self.part.parts = [
                dataclasses.replace(part, batch=part.batch.to(device)) for part in parts
            ]
            with self._link.watched():
                self._step()
        elif self._late is not None:  # the other replicas need this rank's items
            self._measure_late()
        if touched is not None:
            touched.backward()
        self.part.parts, self.part.touched, self._wanted = [], None, None
        return self._total

    def _touch(self, wanted: Wanted, drawn: Negatives | None) -> TouchedVectors | None:
        """Vectors of what the batch holds; at the end of the negatives too, or of all items.

        A ``LateSoftmax`` finds the items where they are.
        """
        scores = self.grid.is_last and self._late is None
        is_used = self.grid.is_first or scores
        if not (is_used or self._sharded):
            return None
        if scores and drawn is None:
            return TouchedVectors(self.part.model, None)
        items = wanted.batch.items.to(self.objective.device).flatten()
        needed = [items.new_zeros(1)]  # padding
        if is_used and len(wanted.targets):
            needed.append(items)
        if scores and drawn is not None:
            needed.append(drawn.items)
        return TouchedVectors(self.part.model, torch.cat(needed).unique())

    def _step(self) -> None:
        items = [part.batch.items[:, :-1] for part in self.part.parts]
        rows, width = items[0].shape
        numbers = torch.arange(self._count)  # torch hands each micro-batch its own
        first = (torch.cat(items),) if self.grid.is_first else ()
        last = numbers if self.grid.is_last else None
        schedule = self._schedule_for(rows, width)
        schedule.step(*first, target=last, return_outputs=False, number=numbers)
        states = self._count * rows * width * self.part.model.config.dims * _FLOAT_BYTES
        self.sent_bytes += states * len(self.grid.neighbors)

    def _schedule_for(self, rows: int, width: int) -> Schedule:
        """A schedule for micro-batches of a shape, with the buffers that states arrive in.

        All stages see the same shapes in the same order, so they keep and forget the same ones.
        """
        found = self._schedules.pop((rows, width), None)
        if found is None:
            found = self._make_schedule(rows, width)
        self._schedules[rows, width] = found
        if len(self._schedules) > _SHAPES_KEPT:
            del self._schedules[next(iter(self._schedules))]
        return found

    def _make_schedule(self, rows: int, width: int) -> Schedule:
        shape, device = (rows, width), self.objective.device
        states = torch.empty(*shape, self.part.model.config.dims, device="meta", requires_grad=True)
        items = torch.empty(*shape, dtype=torch.int64, device="meta")
        late = self._late is not None
        make_stage = partial(LateStage, self._measure_late) if late else PipelineStage
        stage = make_stage(
            self.part,
            self.grid.stage,
            self.grid.stages,
            device,
            input_args=items if self.grid.is_first else states,
            output_args=states,
        )
        make_schedule = ScheduleGPipe if late else Schedule1F1B
        return make_schedule(stage, self._count, loss_fn=self._measure, scale_grads=False)

    def _measure_late(self) -> None:
        """Between forward and backward passes; of stages before the last for their items alone."""
        assert self._late is not None, "asked for with a split catalogue alone"
        wanted = self._wanted if self.grid.is_last else None
        self._total += self._late.measure(wanted, self._divisor)

    def _measure(self, hidden: Tensor, number: Tensor) -> Tensor:
        """The loss of a micro-batch, divided; one without targets has gradients of zero."""
        wanted, nothing = self.part.parts[int(number)], hidden.sum() * 0.0
        if self._late is not None:
            positions = wanted.batch.positions
            return self._late.keep(hidden.flatten(0, 1).index_select(0, positions))
        if not len(wanted.targets):
            return nothing

        def read(*given: Any) -> Tensor:
            return hidden.flatten(0, 1).index_select(0, given[-1])

        with self.part.autocast():
            vectors: Any = self.part.touched  # all that the objective asks of a model
            loss = self.objective.sum_over_items(vectors, wanted, self._drawn, read)
        self._total += loss.detach()
        return loss / self._divisor
