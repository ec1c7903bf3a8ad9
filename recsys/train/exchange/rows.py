"""Sparse gradients of tables: ranks send the rows that they touched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from recsys.models.sparse_tables import sharded_weights, sparse_weights
from recsys.train.communication import Communicator
from recsys.train.exchange.contract import Exchange
from recsys.train.row_optimizer import SplitOptimizer, touched_rows


class RowGradients(Exchange):
    """Sums sparse gradients of tables over ranks by rows; dense ones are left to ``rest``.

    A rank adds its repeated rows up and sends each touched row once, its number beside its values
    (allgather). Of n ranks that touch T rows between them, repeated ones counted, each passes on
    T (n - 1) / n rows. A sum of the whole table of R rows (allreduce) sends 2 R (n - 1) / n of
    them: so rows go one by one while T < 2 R, which of two ranks is always. Otherwise the table
    goes whole, with a column that counts who touched a row, so that optimizers see the same rows.

    The gradient of a table that is split over ranks is complete where it is, and stays there.

    Args:
        communicator: of all ranks.
        rest: what is done with all other weights.
    """

    def __init__(self, communicator: Communicator, rest: Exchange) -> None:
        super().__init__(communicator)
        self._rest = rest
        self._weights: dict[str, nn.Parameter] = {}
        self._complete: set[str] = set()

    def attach(self, optimizer: Optimizer, model: nn.Module, backwards: int) -> Optimizer:
        assert isinstance(optimizer, SplitOptimizer), "made for a model with sparse gradients"
        self._weights = sparse_weights(model)
        alone = self.communicator.size == 1
        self._complete = set(self._weights if alone else sharded_weights(model))
        optimizer.replace_rest(self._rest.attach(optimizer.rest, model, backwards))
        return optimizer

    def start_divisor(self, own_weight: float) -> Callable[[], float]:
        return self._rest.start_divisor(own_weight)

    @contextmanager
    def reduced(self, optimizer: Optimizer) -> Iterator[None]:
        assert isinstance(optimizer, SplitOptimizer), "as it was attached"
        own = {name: _coalesce(weight) for name, weight in self._weights.items()}
        whole = self._find_whole(own)
        sums = {name: self._start(name, own[name], name in whole) for name in own}
        with self._rest.reduced(optimizer.rest):
            for name, finish in sums.items():
                self._weights[name].grad = finish()
            yield

    def _find_whole(self, own: dict[str, Tensor]) -> set[str]:
        """Tables of which so many rows are touched that they are cheaper whole."""
        sent = {name: part for name, part in own.items() if name not in self._complete}
        if self.communicator.size <= 2 or not sent:
            return set()
        counts = torch.tensor([gradient._nnz() for gradient in sent.values()], dtype=torch.float64)
        touched = self.communicator.allreduce_sum(counts).tolist()
        return {
            name
            for (name, gradient), rows in zip(sent.items(), touched, strict=True)
            if rows >= 2 * len(gradient)
        }

    def _start(self, name: str, gradient: Tensor, whole: bool) -> Callable[[], Tensor]:
        if name in self._complete:
            return lambda: gradient
        return (self._start_whole if whole else self._start_rows)(name, gradient)

    def _start_rows(self, name: str, gradient: Tensor) -> Callable[[], Tensor]:
        rows, values = touched_rows(gradient)
        numbers = rows.to(torch.int32).view(torch.float32)[:, None]  # the bits, not the value
        wait = self.communicator.start_allgather(torch.cat([values, numbers], dim=1), name)

        def finish() -> Tensor:
            everyone = wait()
            numbers = everyone[:, -1].contiguous().view(torch.int32).long()
            # One after the other in order of ranks: coalescing adds up alike on all of them.
            # (A view of one row counts as contiguous, with a stride of one column too many, and
            # to_dense of torch 2.12 steps by it.)
            values = everyone[:, :-1].clone(memory_format=torch.contiguous_format)
            return _sparse(numbers, values, gradient).coalesce()

        return finish

    def _start_whole(self, name: str, gradient: Tensor) -> Callable[[], Tensor]:
        rows, values = touched_rows(gradient)
        table = values.new_zeros(len(gradient), values.shape[1] + 1)
        table.index_copy_(0, rows, torch.cat([values, torch.ones_like(values[:, :1])], dim=1))
        wait = self.communicator.start_allreduce(table, name)

        def finish() -> Tensor:
            total = wait()
            rows = total[:, -1].nonzero()[:, 0]
            return _sparse(rows, total[rows, :-1], gradient, is_coalesced=True)

        return finish

    def after_step(self, model: nn.Module, global_step: int) -> None:
        self._rest.after_step(model, global_step)

    def agree(self, tensors: Iterable[Tensor]) -> None:
        self._rest.agree(tensors)

    def state_dict(self) -> dict[str, Any]:
        return self._rest.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rest.load_state_dict(state)


def _coalesce(weight: nn.Parameter) -> Tensor:
    """The gradient with every row once; without one (no target was here) there is no row."""
    if weight.grad is None:
        none = torch.zeros(0, dtype=torch.int64, device=weight.device)
        return _sparse(none, weight.detach()[:0], weight, is_coalesced=True)
    assert weight.grad.is_sparse, "a loss that looks rows up alone"
    return weight.grad.coalesce()


def _sparse(rows: Tensor, values: Tensor, like: Tensor, is_coalesced: bool = False) -> Tensor:
    return torch.sparse_coo_tensor(
        rows[None], values, like.shape, check_invariants=False, is_coalesced=is_coalesced
    )
