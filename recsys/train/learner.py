"""What a training learns: the weights of one rank, and all that moves, averages and keeps them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from recsys.models import Recommender
from recsys.train.batch import Batch
from recsys.train.communication import Communicator, Group
from recsys.train.exchange import Exchange, make_exchange
from recsys.train.feed import Feed
from recsys.train.job import TrainingJob
from recsys.train.moving_average import MovingAverage, copy_parameters
from recsys.train.objectives import Wanted
from recsys.train.optimization import (
    autocast,
    choose_device,
    choose_precision,
    clip_gradients,
    make_optimizer,
    step_seed,
)
from recsys.train.popularity import count_targets
from recsys.train.row_tables import use_sparse_rows
from recsys.train.sharding import make_tables
from recsys.train.start import copy_weights


class Learner:
    """The model of one rank, its objective, its optimizer, and its exchange with other ranks.

    Attributes:
        model: in training; ``average`` is the moving average of its weights, which is judged.
        objective: what is learned.
        readers: this rank among those whose batches differ; all of them, but in a pipeline.
        sent_bytes: payload sent to other ranks since this was made.
    """

    def __init__(self, job: TrainingJob, communicator: Communicator) -> None:
        self.communicator, self._num_items = communicator, job.num_items
        self.settings = job.settings.train
        self.device = choose_device(self.settings.device, communicator.local_rank)
        self._precision = choose_precision(self.settings.precision, self.device)
        torch.manual_seed(self.settings.seed)
        self._tables = make_tables(job, communicator)
        self.model: Recommender = self._tables.make_model().to(self.device)
        self._new_items = copy_weights(self.model, job) if job.start_from else None
        self.average = copy_parameters(self.model)
        self._weight_names = {name for name, _ in self.model.named_parameters()}
        self._best: dict[str, Tensor] = {}
        self._scaler = GradScaler("cuda", enabled=self._precision == torch.float16)
        self.objective = self._tables.make_objective(self.device)
        if job.start_from:
            self.objective.remember(self.model)
        use_sparse_rows(self.model, job, self.objective.touched_rows(communicator.size))
        decay = self.settings.weight_average_decay
        self._moving_average = MovingAverage(self.average, self.model, decay)
        self.readers = self._find_readers()
        self.exchange = self._make_exchange()
        # Wrapped before a checkpoint is loaded: Horovod's wrapper starts with an empty state.
        self.optimizer = self.exchange.attach(
            make_optimizer(self.model, self.settings),
            self.model,
            self.settings.gradient_accumulation,
        )
        self._tables.attach(self.model, self.average, self.optimizer)

    def _find_readers(self) -> Group:
        return self.communicator

    def _make_exchange(self) -> Exchange:
        return make_exchange(self.settings.exchange, self.communicator, self.model)

    @property
    def sent_bytes(self) -> int:
        return self.exchange.sent_bytes

    def synchronize(self) -> None:
        """Give all ranks what rank 0 starts with, or goes on with."""
        self.communicator.broadcast_state(self.optimizer, self.model)

    def use_popularity(self, feed: Feed, is_fresh: bool) -> None:
        """Tell model and objective how often each item is a target, where they want to know.

        Args:
            feed: its first epoch is counted.
            is_fresh: no step was taken yet.
        """
        new = self._new_items
        wanted = self.settings.start_from_popularity if new is None else bool(new.any())
        fresh = is_fresh and wanted
        if not fresh and not self.objective.needs_popularity:
            return
        with feed.epoch(0) as batches:
            counts = count_targets(batches, self.objective.popular, self._num_items, self.readers)
        self.objective.set_popularity(counts)
        for model in (self.model, self.average) if fresh else ():
            if new is None:
                model.set_popularity(counts)
            else:
                model.place_new_items(counts, new)

    def step(self, batches: list[Batch], global_step: int, learning_rate: float) -> Tensor:
        """One step of the optimizer on the gradients of some batches.

        Returns:
            Of this rank's targets the sum of losses, of weights, and the number; float64 [3].
        """
        torch.manual_seed(step_seed(self.settings.seed, global_step, self.readers.rank))
        parts = [self.objective.choose(batch) for batch in batches]
        count, weight = sum(len(part.targets) for part in parts), sum(p.weight for p in parts)
        divisor = functools.cache(self.exchange.start_divisor(weight))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad()
        total = self._backward(parts, divisor, global_step)
        with self.exchange.reduced(self.optimizer):
            self._scaler.unscale_(self.optimizer)
            self._clip()
            self._moving_average.before_step()
            self._scaler.step(self.optimizer)
            self._scaler.update()
        self.exchange.after_step(self.model, global_step)
        self._moving_average.after_step(global_step)
        own = torch.tensor([weight, count], dtype=torch.float64, device=self.device)
        return torch.cat([total.double()[None], own])

    def _backward(
        self, parts: list[Wanted], divisor: Callable[[], float], global_step: int
    ) -> Tensor:
        """Leave the gradients of the batches in the weights; the sum of their losses, float32 []"""
        drawn = self.objective.draw(global_step)
        total = torch.zeros((), device=self.device)
        for part in parts:
            with autocast(self.device, self._precision):
                loss = self.objective.sum_losses(self.model, part, drawn)
            self._scaler.scale(loss / (divisor() or 1.0)).backward()
            total += loss.detach()
        return total

    def _clip(self) -> None:
        clip_gradients(self.model, self.settings.gradient_clip_norm, self.communicator)

    def agree(self) -> None:
        """Whatever ranks have of their own becomes common: so it is judged and saved."""
        self._moving_average.settle()
        moments = (
            value
            for state in self.optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        )
        weights = (*self.model.parameters(), *self.average.parameters())
        self.exchange.agree([*(weight.data for weight in weights), *moments])

    def keep_best(self) -> None:
        """Remember the average as it is: no epoch was better."""
        self._best = {
            name: weight.detach().cpu().clone() if name in self._weight_names else weight.cpu()
            for name, weight in self.average.state_dict().items()
        }
        self._tables.keep_best()

    def use_best(self) -> None:
        """Put into the model what ``keep_best`` has kept."""
        self.model.load_state_dict(self._best)
        self._tables.use_best()

    def collect(self) -> Any:
        """On rank 0 the model with whole tables; all ranks call this."""
        return self._tables.collect(self.model)

    def save_parts(self, global_step: int) -> None:
        """Write what only this rank has, before rank 0 writes a checkpoint; all ranks call this."""
        self._tables.save(global_step)

    def remove_parts(self) -> None:
        """Remove what ``save_parts`` wrote: the training is complete."""
        self._tables.clear()

    def state_dict(self) -> dict[str, Any]:
        """After ``agree``: what all ranks have in common, tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "best": self._best,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "exchange": self.exchange.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], global_step: int) -> None:
        """Inverse of ``state_dict`` and of ``save_parts`` at that step, on any number of ranks."""
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self._best = state["best"]
        self.optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self.exchange.load_state_dict(state["exchange"])
        self._tables.load(global_step)

    def close(self) -> None:
        """Leave whatever was joined for the training; nothing may be called afterwards."""
