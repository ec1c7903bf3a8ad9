"""The moving average of the weights, which is what is validated and kept."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from recsys.models import Recommender
from recsys.models.sparse_tables import sparse_weights
from recsys.train.row_optimizer import touched_rows

_ROWS_AT_ONCE = 1 << 16
_NOTHING_LEFT = -1e9
"""Stands for the log of 0, whose multiples have no difference."""


def copy_parameters(model: Recommender) -> Recommender:
    """A copy with parameters of its own; buffers (links of items) don't change and are shared."""
    return copy.deepcopy(model, {id(buffer): buffer for buffer in model.buffers()})


class MovingAverage:
    """Moves ``average`` towards ``model`` each step: the mean of recent weights generalises better.

    Early on the decay is smaller, (1 + step) / (10 + step), so that the initial weights are
    forgotten quickly. Source: Polyak and Juditsky 1992; the ramp is that of TensorFlow's
    ExponentialMovingAverage.

    Rows of tables with sparse gradients are left behind until they are touched, or until
    ``settle``: while a row's weight w stays, steps with decays d move its average a to
    w + (a - w) Π d.

    Args:
        average: made of ``model`` by ``copy_parameters``.
        decay: of a step, 0 to less than 1.
    """

    def __init__(self, average: nn.Module, model: nn.Module, decay: float) -> None:
        self._decay = decay
        averages = dict(average.named_parameters())
        sparse = sparse_weights(model)
        dense = {name: part for name, part in model.named_parameters() if name not in sparse}
        self._averages: list[Tensor] = [averages[name] for name in dense]
        self._weights: list[Tensor] = list(dense.values())
        self._tables = [_LateRows(averages[name], weight) for name, weight in sparse.items()]

    @torch.no_grad()
    def before_step(self) -> None:
        """Called with the gradients of the step, before weights move."""
        for table in self._tables:
            table.catch_up(table.touched())

    @torch.no_grad()
    def after_step(self, global_step: int) -> None:
        """Called once weights have moved, with the number of the step from 0."""
        decay = min(self._decay, (1.0 + global_step) / (10.0 + global_step))
        torch._foreach_lerp_(self._averages, self._weights, 1.0 - decay)
        for table in self._tables:
            table.follow(table.touched(), decay)

    @torch.no_grad()
    def settle(self) -> None:
        """Bring all rows up to the last step: before the average is looked at, saved or loaded."""
        for table in self._tables:
            table.settle()


class _LateRows:
    """The average of one table, each row as of the last step that touched it.

    Attributes:
        total: sum of the logs of the decays since all rows were even.
        done: that sum as each row has it behind it, float64 [rows].
    """

    def __init__(self, average: Tensor, weight: nn.Parameter) -> None:
        self.average, self.weight, self.total = average, weight, 0.0
        self.done = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)

    def touched(self) -> Tensor:
        assert self.weight.grad is not None, "the exchange gives every table a gradient"
        return touched_rows(self.weight.grad)[0]

    def catch_up(self, rows: Tensor) -> None:
        """Steps that left these rows' weights alone, all at once."""
        share = -torch.expm1(self.total - self.done.index_select(0, rows))
        self._approach(rows, share.to(self.average.dtype)[:, None])

    def follow(self, rows: Tensor, decay: float) -> None:
        self.total += math.log(decay) if decay > 0 else _NOTHING_LEFT
        self._approach(rows, torch.tensor(1.0 - decay, device=self.done.device))

    def _approach(self, rows: Tensor, share: Tensor) -> None:
        before, towards = (part.index_select(0, rows) for part in (self.average, self.weight))
        self.average.index_copy_(0, rows, before.lerp_(towards, share.to(before.dtype)))
        self.done.index_fill_(0, rows, self.total)

    def settle(self) -> None:
        late = (self.done != self.total).nonzero()[:, 0]
        for rows in late.split(_ROWS_AT_ONCE):
            self.catch_up(rows)
        self.done.zero_()
        self.total = 0.0
