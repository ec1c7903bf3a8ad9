"""Rows of the feed: windows as flat integers, and what of each event they hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.schemas import EVENT_TIMES, EVENT_TYPES, ITEMS, LABELS, USER_IDX

Rows = npt.NDArray[np.int32]
"""Windows of one padded length, int32 [rows, channels * length]: items, then ``Channels``.
A negative item is the input -item, but no target: an older window has it as one."""

_SECONDS_AN_HOUR = 3600
_COLUMNS = {
    "hours": EVENT_TIMES,
    "event_types": EVENT_TYPES,
    "labels": LABELS,
    "user_idx": USER_IDX,
}


@dataclass(frozen=True)
class Channels:
    """What rows hold of each event besides its item.

    Attributes:
        hours: its time, hours since 1970 (UTC).
        event_types: the code of its type.
        labels: what came of it (see gold/training_examples), the bits of a float32.
        user_idx: whose it is, the same in a whole row.
    """

    hours: bool = False
    event_types: bool = False
    labels: bool = False
    user_idx: bool = False

    @property
    def size(self) -> int:
        """Numbers of each event."""
        return 1 + len(self.others)

    @property
    def others(self) -> list[str]:
        """Names of the channels besides items, in the order of rows."""
        return [field.name for field in dataclasses.fields(self) if getattr(self, field.name)]

    @property
    def columns(self) -> list[str]:
        """Columns of the training table, items first, in the order of rows."""
        return [ITEMS, *(_COLUMNS[name] for name in self.others)]

    def split(self, rows: Rows) -> dict[str, Rows]:
        """``items`` and the other channels of rows by name, each int32 [rows, length]."""
        return dict(zip(("items", *self.others), np.split(rows, self.size, axis=1), strict=True))

    def pack(self, columns: Mapping[str, npt.NDArray[Any]], context: npt.NDArray[Any]) -> Rows:
        """Rows from what a file holds.

        Args:
            columns: of ``columns``, [rows, length], user_idx [rows]; zeros in front of items.
            context: [rows], how many of each row's first items are no targets.
        """
        items = columns[ITEMS]
        length = items.shape[1]
        first_target = length - np.count_nonzero(items, axis=1) + context
        parts = [np.where(np.arange(length) < first_target[:, None], -items, items)]
        for name in self.others:
            values = np.asarray(columns[_COLUMNS[name]])
            if name == "hours":
                values = values // _SECONDS_AN_HOUR
            elif name == "labels":
                values = values.astype(np.float32).view(np.int32)
            elif name == "user_idx":
                values = np.broadcast_to(values[:, None], items.shape)
            parts.append(values)
        return np.concatenate(parts, axis=1).astype(np.int32, copy=False)
