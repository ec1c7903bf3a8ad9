"""What users did, as models take it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys.ranking.top_n import IntArray, flatten

_SECONDS_AN_HOUR = 3600


@dataclass(frozen=True)
class Histories:
    """Events of users, oldest first: an array a user of each.

    Attributes:
        items: item_idx.
        event_times: Unix seconds; None where no model needs them.
        event_types: codes; None where no model needs them.
        user_idx: whose they are, int [users]; None where no model needs it.
        user_attributes: hashes of what is known of them besides, from 1; None likewise.
    """

    items: Sequence[IntArray]
    event_times: Sequence[IntArray] | None = None
    event_types: Sequence[IntArray] | None = None
    user_idx: IntArray | None = None
    user_attributes: Sequence[IntArray] | None = None

    def __len__(self) -> int:
        return len(self.items)

    def part(self, at: slice | IntArray) -> Histories:
        """Some of the users, as they lie or in another order."""
        users = self.user_idx
        return Histories(
            take(self.items, at),
            None if self.event_times is None else take(self.event_times, at),
            None if self.event_types is None else take(self.event_types, at),
            None if users is None else users[at],
            None if self.user_attributes is None else take(self.user_attributes, at),
        )


def take(lists: Sequence[IntArray], at: slice | IntArray) -> Sequence[IntArray]:
    """Some of the lists."""
    return lists[at] if isinstance(at, slice) else [lists[row] for row in at]


def pad_histories(
    histories: Histories, num_items: int, max_length: int
) -> dict[str, npt.NDArray[np.int64]]:
    """Left-pad the last ``max_length`` events with known items of each history.

    Returns:
        What a model is given by name (``recsys.models.Inputs``), int64 [users, longest] with at
        least one column: ``items``, and ``hours`` and ``event_types`` where there are any;
        ``user_idx``, int64 [users], and ``user_attributes``, int64 [users, most] (zeros behind),
        likewise.
    """
    offsets, items = flatten(histories.items)
    users = len(offsets) - 1
    known = np.flatnonzero((items > 0) & (items <= num_items))
    row = np.repeat(np.arange(users), np.diff(offsets))[known]
    # Places from the end of what is known of a user; the newest has 1.
    place = np.searchsorted(row, np.arange(users), side="right")[row] - np.arange(len(row))
    kept = place <= max_length
    known, row, place = known[kept], row[kept], place[kept]
    width = int(place.max(initial=1))

    def pad(values: IntArray) -> npt.NDArray[np.int64]:
        padded = np.zeros((users, width), dtype=np.int64)
        padded[row, width - place] = values[known]
        return padded

    inputs = {"items": pad(items)}
    if histories.event_times is not None:
        inputs["hours"] = pad(flatten(histories.event_times)[1]) // _SECONDS_AN_HOUR
    if histories.event_types is not None:
        inputs["event_types"] = pad(flatten(histories.event_types)[1])
    if histories.user_idx is not None:
        inputs["user_idx"] = np.asarray(histories.user_idx, dtype=np.int64)
    if histories.user_attributes is not None:
        inputs["user_attributes"] = _pad_behind(histories.user_attributes)
    return inputs


def _pad_behind(lists: Sequence[IntArray]) -> npt.NDArray[np.int64]:
    offsets, values = flatten(lists)
    lengths = np.diff(offsets)
    row = np.repeat(np.arange(len(lengths)), lengths)
    padded = np.zeros((len(lengths), int(lengths.max(initial=1))), dtype=np.int64)
    padded[row, np.arange(len(values)) - offsets[row]] = values
    return padded
