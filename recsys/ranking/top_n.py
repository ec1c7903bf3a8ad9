"""Exact top-n of score matrices: seen items removed, ties broken by the lower item index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

IntArray = npt.NDArray[np.integer[Any]]
Ragged = tuple[IntArray, IntArray]
"""Integer lists of several rows in two arrays: offsets [rows + 1] and values [offsets[-1]]."""

NAN_MESSAGE = "scores contain NaN: the model or its input vectors are broken"

PADDING_ITEM = 0
"""Column 0 of every score matrix is padding: never ranked, and the filler of short lists."""


class RankedItems(NamedTuple):
    """Lists of items, best first.

    Attributes:
        items: item_idx, int64 [users, n]; ``PADDING_ITEM`` fills a list that is too short.
        scores: float32 [users, n], descending; -inf where ``items`` is padding. Never NaN.
    """

    items: Tensor
    scores: Tensor


def rank_items(
    scores: Tensor, n: int, seen: Ragged | Sequence[IntArray] | None = None
) -> RankedItems:
    """Rank the catalogue for each user: exact, deterministic, without seen items.

    Equal scores are ordered by the lower item index, so that the result depends neither on the
    device nor on how users were batched. An item whose score is -inf is not rankable.

    Args:
        scores: float [users, num_items + 1]; column j is item_idx j, column 0 is padding.
            Overwritten: padding and seen items become -inf (a copy would double the memory).
        n: length of the lists, at least 1.
        seen: item_idx to leave out for each user, as ``Ragged`` or one array a user. Indices
            beyond the last column (items newer than the model) have no score and are ignored.

    Raises:
        ValueError: n is not positive, shapes disagree, or a rankable score is NaN.
    """
    if n < 1:
        raise ValueError(f"n={n} must be at least 1")
    if scores.ndim != 2 or scores.shape[1] < 1:
        raise ValueError(f"scores must be [users, num_items + 1], not {tuple(scores.shape)}")
    users, columns = scores.shape
    scores[:, PADDING_ITEM] = -torch.inf
    if seen is not None:
        _remove(scores, seen if isinstance(seen, tuple) else flatten(seen))
    # One more than asked for shows whether a tie straddles the end of the list. NaN sorts above
    # everything, so looking at the best ones finds any.
    values, items = torch.topk(scores, min(n + 1, columns), dim=1)
    if torch.isnan(values).any():
        raise ValueError(NAN_MESSAGE)
    items, order = torch.sort(items, dim=1)
    values, order = torch.sort(values.gather(1, order), dim=1, descending=True, stable=True)
    items = items.gather(1, order)
    if columns > n:
        straddles = (values[:, n - 1] == values[:, n]) & (values[:, n] > -torch.inf)
        for row in torch.nonzero(straddles)[:, 0].tolist():
            exact = torch.sort(scores[row], descending=True, stable=True)
            values[row], items[row] = exact.values[: n + 1], exact.indices[: n + 1]
    return _pad(items[:, :n], values[:, :n].float(), users, n)


class RowsOf(Sequence[IntArray]):
    """The rows of ``Ragged``, each an array where it is asked for: millions would cost a lot.

    Args:
        offsets: int64 [rows + 1]; row i is ``values[offsets[i] : offsets[i + 1]]``.
        values: integers of any size, [offsets[-1] or more].
    """

    def __init__(self, offsets: IntArray, values: IntArray) -> None:
        self.ragged: Ragged = offsets, values

    def __len__(self) -> int:
        return len(self.ragged[0]) - 1

    @overload
    def __getitem__(self, at: int) -> IntArray: ...
    @overload
    def __getitem__(self, at: slice) -> RowsOf: ...
    def __getitem__(self, at: int | slice) -> IntArray | RowsOf:
        """A row, or some that follow each other, without a copy.

        Raises:
            IndexError: there is no such row.
            ValueError: a slice with steps.
        """
        offsets, values = self.ragged
        if isinstance(at, slice):
            first, last, step = at.indices(len(self))
            if step != 1:
                raise ValueError(f"rows {at} do not follow each other")
            return RowsOf(offsets[first : max(first, last) + 1], values)
        if not -len(self) <= at < len(self):
            raise IndexError(f"there is no row {at} of {len(self)}")
        row = at % len(self)
        return values[offsets[row] : offsets[row + 1]]


def flatten(lists: Sequence[IntArray]) -> Ragged:
    """Turn one integer array a row into (offsets int64 [rows + 1], values int64)."""
    if isinstance(lists, RowsOf):
        offsets, values = lists.ragged
        first, last = offsets[0], offsets[-1]
        return offsets - first, values[first:last].astype(np.int64, copy=False)
    offsets = np.zeros(len(lists) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in lists], out=offsets[1:])
    values = np.concatenate(lists) if len(lists) else np.zeros(0, dtype=np.int64)
    return offsets, values.astype(np.int64, copy=False)


def _remove(scores: Tensor, seen: Ragged) -> None:
    offsets, values = (np.asarray(part, dtype=np.int64) for part in seen)
    if len(offsets) != len(scores) + 1:
        raise ValueError(f"seen has {len(offsets) - 1} rows, scores have {len(scores)}")
    rows = np.repeat(np.arange(len(scores)), np.diff(offsets))
    known = (values > 0) & (values < scores.shape[1])
    index = torch.from_numpy(rows[known] * scores.shape[1] + values[known]).to(scores.device)
    scores.view(-1)[index] = -torch.inf


def _pad(items: Tensor, values: Tensor, users: int, n: int) -> RankedItems:
    missing = n - items.shape[1]
    if missing > 0:
        items = torch.cat([items, items.new_zeros((users, missing))], dim=1)
        values = torch.cat([values, values.new_full((users, missing), -torch.inf)], dim=1)
    return RankedItems(items.masked_fill(values == -torch.inf, PADDING_ITEM), values)
