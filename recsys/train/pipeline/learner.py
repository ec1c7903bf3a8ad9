"""What one stage of a pipeline learns, and how stages make whole models of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recsys.models import SequenceTransformer
from recsys.models.sparse_tables import sharded_weights
from recsys.train.batch import Batch
from recsys.train.checkpoint import CheckpointStore
from recsys.train.communication import Communicator, Group
from recsys.train.exchange import Exchange
from recsys.train.exchange.rows import RowGradients
from recsys.train.job import TrainingJob
from recsys.train.learner import Learner
from recsys.train.objectives import Wanted
from recsys.train.objectives.next_item import NextItem
from recsys.train.optimization import autocast, step_seed
from recsys.train.pipeline.gradients import make_stage_gradients, split_stages
from recsys.train.pipeline.grid import Grid
from recsys.train.pipeline.link import Link
from recsys.train.pipeline.schedule import Pipeline, StagePart
from recsys.train.pipeline.weights import StageWeights


class PipelineLearner(Learner):
    """One stage of a model, in as many replicas as there are batches in a step.

    Until the first step a rank has the whole model, which ranks of any number draw or load alike.
    Then it gives back what its stage does not use: weights, gradients, moments and averages are
    those of the stage. For a validation, which all ranks share, averages are gathered on every
    rank, until the next step. Of a checkpoint each stage of the first replica writes its part,
    which become one whole when it is read. So checkpoints and bundles are those of whole models,
    whoever goes on with them.
    """

    def __init__(self, job: TrainingJob, communicator: Communicator) -> None:
        parallel = job.settings.train.parallel
        self._grid = Grid(communicator.rank, communicator.size, parallel.pipeline_stages)
        self._micro_batches = parallel.parts
        super().__init__(job, communicator)
        model, objective = self.model, self.objective
        assert isinstance(model, SequenceTransformer), "the settings see to it"
        assert isinstance(objective, NextItem), "the settings see to it"
        grid = self._grid
        self._replica = communicator.split(
            [grid.ranks_of_replica(replica) for replica in range(grid.replicas)]
        )
        self._is_released = self._average_is_whole = False
        self._checkpoints = CheckpointStore(Path(job.checkpoint_dir), job.identity)
        every = [communicator, self.readers, self._replica, *self._stage_gradients.groups]
        self._groups = {id(group): group for group in every}.values()
        self._sent_before = sum(group.sent_bytes for group in self._groups)
        seconds = self.settings.stall_timeout_seconds
        self._link = Link(communicator, grid, self.device, seconds)
        part = StagePart(model, grid, partial(autocast, self.device, self._precision))
        self._pipeline = Pipeline(part, objective, grid, self._link, self._micro_batches)

    def _find_readers(self) -> Group:
        return split_stages(self.communicator, self._grid)

    def _make_exchange(self) -> Exchange:
        model: Any = self.model
        self._weights = StageWeights(model, self._grid)
        compression = self.settings.exchange.compression
        self._stage_gradients = make_stage_gradients(
            self.communicator, self._grid, self._weights, compression, self._micro_batches
        )
        if sharded_weights(model):
            return RowGradients(self.communicator, self._stage_gradients)
        return self._stage_gradients

    @property
    def sent_bytes(self) -> int:
        """Gradients, states and their gradients, what was gathered, and rows of a split table."""
        sent = sum(group.sent_bytes for group in self._groups)
        return sent - self._sent_before + self._pipeline.sent_bytes

    def synchronize(self) -> None:
        # The optimizer's state is each stage's own; a checkpoint has given each rank its part.
        self.communicator.broadcast_state(None, self.model)

    def step(self, batches: list[Batch], global_step: int, learning_rate: float) -> Tensor:
        """As ``Learner.step``; the last stage reports, for all of its replica."""
        self._release()
        own = super().step(batches, global_step, learning_rate)
        return own if self._grid.is_last else torch.zeros_like(own)

    def _release(self) -> None:
        if not self._is_released:
            self._weights.release(self.model)
        if not self._is_released or self._average_is_whole:
            self._weights.release(self.average)
        self._is_released, self._average_is_whole = True, False

    def _backward(
        self, parts: list[Wanted], divisor: Callable[[], float], global_step: int
    ) -> Tensor:
        # Stages of a replica have chosen the same targets; what they drop out is their own.
        seed = step_seed(self.settings.seed, global_step, self._grid.ranks + self._grid.rank)
        torch.manual_seed(seed)
        drawn = self.objective.draw(global_step)
        total = torch.zeros((), device=self.device)
        for part in parts:
            total += self._pipeline.run(part, drawn, divisor() or 1.0)
        for weight in self._weights.own.values():
            if weight.grad is None:  # no target was here: momentum moves weights even so
                weight.grad = torch.zeros_like(weight)
        return total

    def _clip(self) -> None:
        """By the norm of the whole gradient, to which each weight counts once."""
        norm = torch.nn.utils.get_total_norm
        split = list(sharded_weights(self.model).values())
        owned = norm(_gradients(self._weights.owned.values()))
        rows = norm(_gradients(split)) if split else torch.zeros_like(owned)
        squares = owned.double().square() / self._grid.replicas + rows.double().square()
        whole = self.communicator.allreduce_sum(squares[None])[0].sqrt().float()
        weights = [*self._weights.own.values(), *split]
        largest = self.settings.gradient_clip_norm
        torch.nn.utils.clip_grads_with_norm_(weights, largest, whole)

    def agree(self) -> None:
        """Stages of a replica gather the averages of all weights."""
        super().agree()
        average = {name: self.average.get_parameter(name) for name in self._weights.owned}
        self._weights.start_whole(self.average, self._weights.gather(average, self._replica))
        self._average_is_whole = True

    def keep_best(self) -> None:
        """Rank 0 keeps them for all."""
        if self.communicator.rank == 0:
            super().keep_best()
        else:
            self._tables.keep_best()

    def use_best(self) -> None:
        if self.communicator.rank == 0:
            self._weights.start_whole(
                self.model,
                {name: self._best[name].to(self.device) for name in self._weights.foreign},
            )
            super().use_best()
        else:
            self._tables.use_best()

    def save_parts(self, global_step: int) -> None:
        """Stages of the first replica write what they have; the first one's is rank 0's."""
        super().save_parts(global_step)
        grid = self._grid
        if grid.replica == 0 and grid.stage > 0:
            part = self._find_part()
            self._checkpoints.save_part(global_step, grid.stage, grid.stages, part)
        # A checkpoint counts from the moment it is there: then all parts must be.
        self.communicator.barrier()

    def _find_part(self) -> dict[str, Any]:
        """This stage's part of ``state_dict``, of the weights that no earlier stage has."""
        owned = self._weights.owned
        moments = self.optimizer.state_dict()["state"]
        numbers = self._number_weights(owned)
        return {
            "model": {name: weight.detach() for name, weight in owned.items()},
            "average": {name: self.average.get_parameter(name).detach() for name in owned},
            "optimizer": {"state": {n: moments[n] for n in numbers if n in moments}},
        }

    def state_dict(self) -> dict[str, Any]:
        """After ``agree`` and ``save_parts``, on rank 0: without the parts of other stages."""
        content = super().state_dict()
        for kind in ("model", "average"):
            own = content[kind].items()
            content[kind] = {n: part for n, part in own if n not in self._weights.foreign}
        return {**content, "stages": self._grid.stages}

    def load_state_dict(self, state: dict[str, Any], global_step: int) -> None:
        """Of a whole model, as ranks without stages or all stages saved it; before any step."""
        super().load_state_dict(state, global_step)
        for weight in self._weights.foreign.values():
            self.optimizer.state.pop(weight, None)
        if self.communicator.rank != 0:
            self._best = {}

    def _number_weights(self, weights: Mapping[str, nn.Parameter]) -> list[int]:
        """Their numbers in the state of the optimizer, which are alike on all stages."""
        wanted = {id(weight) for weight in weights.values()}
        groups = self.optimizer.param_groups
        every = [weight for group in groups for weight in group["params"]]
        return [number for number, weight in enumerate(every) if id(weight) in wanted]

    def close(self) -> None:
        self._link.close()


def _gradients(weights: Iterable[nn.Parameter]) -> list[Tensor]:
    return [weight.grad for weight in weights if weight.grad is not None]
