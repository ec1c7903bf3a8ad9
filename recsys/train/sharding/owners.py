"""Which rank owns which row of a split table, and rows on their way to whom needs them.

Row i belongs to rank i mod n: items are numbered in the order in which they were first seen, so
that ranges would give the first rank the most popular ones.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from recsys.train.communication import Communicator


class Owners:
    """A table of ``rows`` rows split over the ranks of ``communicator``.

    Attributes:
        communicator: of all ranks.
        rows: of the whole table.
        own: how many of them this rank has.
    """

    def __init__(self, communicator: Communicator, rows: int) -> None:
        self.communicator, self.rows = communicator, rows
        self.own = self.count_of(communicator.rank)

    def count_of(self, rank: int) -> int:
        """Rows of a rank."""
        return len(range(rank, self.rows, self.communicator.size))

    def numbers(self) -> Tensor:
        """The rows that this rank has, ascending, int64 [own]."""
        return torch.arange(self.rows)[self.communicator.rank :: self.communicator.size]

    def is_own(self, rows: Tensor) -> Tensor:
        """Which of ``rows`` this rank has, bool."""
        return rows % self.communicator.size == self.communicator.rank

    def places(self, rows: Tensor) -> Tensor:
        """Where the owners have ``rows``."""
        return rows // self.communicator.size

    def __deepcopy__(self, memo: dict[int, Any]) -> Owners:
        return self  # copies of a table have the same owners


class Route(NamedTuple):
    """How rows that this rank needs come from their owners; made by all ranks together.

    Attributes:
        order: the needed rows by owner, int64 [needed].
        needed: how many this rank needs of each rank.
        places: rows of this rank's part that others need, by rank, int64 [asked].
        asked: how many each rank needs of them.
    """

    order: Tensor
    needed: list[int]
    places: Tensor
    asked: list[int]


def find_route(owners: Owners, rows: Tensor) -> Route:
    """The way to ``rows`` (int64 [needed], any order; may be none)."""
    communicator = owners.communicator
    home = rows % communicator.size
    order = home.argsort(stable=True)
    needed = torch.bincount(home, minlength=communicator.size).cpu()
    ones = [1] * communicator.size
    asked = communicator.start_alltoall(needed, ones, "rows.counts")().tolist()
    wanted = owners.places(rows[order])
    places = communicator.start_alltoall(wanted, needed.tolist(), "rows.places")()
    return Route(order, needed.tolist(), places, asked)


class LookUp(torch.autograd.Function):
    """Vectors of rows from their owners (alltoall); gradients go back the same way and add up."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Tensor, owners: Owners, sparse: bool) -> Tensor:
        """Float [needed, width].

        Args:
            weight: this rank's part, float [own, width].
            rows: of the whole table, int64 [needed].
            owners: of the table.
            sparse: the gradient of ``weight`` is a sparse tensor of rows.
        """
        route = find_route(owners, rows)
        ctx.route, ctx.owners, ctx.sparse, ctx.shape = route, owners, sparse, weight.shape
        chosen = weight.index_select(0, route.places)
        got = owners.communicator.start_alltoall(chosen, route.asked, "rows.vectors")()
        vectors = torch.empty_like(got)
        vectors[route.order] = got
        return vectors

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        route, communicator = ctx.route, ctx.owners.communicator
        sent = gradients[0].index_select(0, route.order)
        values = communicator.start_alltoall(sent, route.needed, "rows.gradients")()
        # In order of ranks, so that rows which many need add up alike in every run.
        total = torch.sparse_coo_tensor(
            route.places[None], values, ctx.shape, check_invariants=False
        )
        return total if ctx.sparse else total.to_dense(), None, None, None
