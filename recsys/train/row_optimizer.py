"""Optimizers of tables with sparse gradients: only what a step touches moves.

A row's moments move in the steps that touch the row, where dense Adam and dense momentum decay
those of all rows in every step. So a row that is touched seldom keeps its moments, and steps it has
no gradient in leave it where it is. Weight decay, too, is paid in the steps that touch a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from recsys.config import Train


def make_row_optimizer(weights: list[nn.Parameter], settings: Train) -> Optimizer:
    """Lazy Adam (``torch.optim.SparseAdam``), for adamw as well, or SGD.

    The weight decay of the settings goes into the group; ``SplitOptimizer`` sees to it.
    """
    decoupled = settings.optimizer == "adamw"
    group = {"params": weights, "row_decay": settings.weight_decay, "decoupled": decoupled}
    if settings.optimizer != "sgd":
        return torch.optim.SparseAdam([group], lr=settings.learning_rate)
    if settings.momentum == 0:
        return torch.optim.SGD([group], lr=settings.learning_rate)
    return RowMomentum([group], settings.learning_rate, settings.momentum)


class RowMomentum(Optimizer):
    """SGD with Nesterov momentum that each row has from its own steps, as torch's SGD has it.

    (torch's own with a sparse gradient moves every row that was ever touched in every step.)
    The same as TensorFlow's ``SparseApplyMomentum``.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move the rows of every (coalesced) gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                rows, values = touched_rows(weight.grad)
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                speed = state["momentum_buffer"]
                moved = speed.index_select(0, rows).mul_(group["momentum"]).add_(values)
                speed.index_copy_(0, rows, moved)
                change = values.add(moved, alpha=group["momentum"])
                weight.index_add_(0, rows, change, alpha=-group["lr"])


class SplitOptimizer(Optimizer):
    """An optimizer of tables with sparse gradients beside that of all other weights.

    To whoever saves, loads or steps it, it is one, with the groups and the state of both.

    Attributes:
        rest: of weights with dense gradients.
        rows: of tables.
        split: each rank has rows of its own: their state is no part of this one's.
    """

    def __init__(self, rest: Optimizer, rows: Optimizer, split: bool = False) -> None:
        super().__init__([*rest.param_groups, *rows.param_groups], {})
        self.rest, self.rows, self.split = rest, rows, split
        self._share()

    def replace_rest(self, rest: Optimizer) -> None:
        """Put another optimizer in the place of ``rest``, with the same number of groups."""
        self.rest = rest
        self.param_groups = [*rest.param_groups, *self.rows.param_groups]
        self._share()

    def _share(self) -> None:
        count = len(self.rest.param_groups)
        self.rest.param_groups = self.param_groups[:count]
        self.rows.param_groups = self.param_groups[count:]
        self.rest.state = self.state
        if not self.split:
            self.rows.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Both step; gradients of tables are coalesced."""
        for group in self.rows.param_groups:
            if group.get("row_decay", 0.0) > 0:
                _decay_rows(group)
        self.rest.step()
        self.rows.step()


def _decay_rows(group: dict[str, Any]) -> None:
    for weight in group["params"]:
        rows, values = touched_rows(weight.grad)
        before = weight.index_select(0, rows)
        if group["decoupled"]:
            weight.index_copy_(0, rows, before * (1.0 - group["lr"] * group["row_decay"]))
        else:
            values.add_(before, alpha=group["row_decay"])


def touched_rows(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Row numbers, int64 [touched], and values, [touched, width], of a coalesced gradient.

    The values are the gradient's own memory.
    """
    return gradient.indices()[0], gradient.values()
