"""A batch in equal parts, which follow each other through the stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from recsys.train.batch import Batch
from recsys.train.objectives import Wanted


def split_wanted(wanted: Wanted, count: int) -> list[Wanted]:
    """Micro-batches of the same shape, which have the targets of the batch between them.

    Rows without events fill up the last ones: ``count`` - 1 at most.

    Args:
        wanted: of ``Objective.choose``, targets in the order of ``batch.positions``.
        count: of micro-batches.
    """
    batch = wanted.batch
    rows, width = len(batch.items), batch.items.shape[1] - 1
    size = -(-rows // count)
    padded = _add_rows(batch, size * count - rows)
    edges = torch.arange(count + 1) * (size * width)
    places = torch.searchsorted(batch.positions, edges.to(batch.positions.device)).tolist()
    parts = []
    for number in range(count):
        own = slice(places[number], places[number + 1])
        rest = _take_rows(padded, slice(number * size, (number + 1) * size))
        positions = batch.positions[own] - number * size * width
        parts.append(
            Wanted(
                dataclasses.replace(rest, positions=positions),
                wanted.targets[own],
                None if wanted.weights is None else wanted.weights[own],
            )
        )
    return parts


def _add_rows(batch: Batch, count: int) -> Batch:
    return _change_rows(
        batch, lambda part: functional.pad(part, (*((0, 0) * (part.ndim - 1)), 0, count))
    )


def _take_rows(batch: Batch, rows: slice) -> Batch:
    return _change_rows(batch, lambda part: part[rows])


def _change_rows(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """All that has a row a window; positions have none."""
    names = [field.name for field in dataclasses.fields(batch) if field.name != "positions"]
    parts = {name: getattr(batch, name) for name in names}
    changed = {name: change(part) for name, part in parts.items() if part is not None}
    return dataclasses.replace(batch, **changed)
