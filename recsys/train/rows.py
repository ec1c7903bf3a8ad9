"""Rows of the feed: windows as flat integers, and what of each event they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.config import Settings
from recsys.schemas import EVENT_TIMES, EVENT_TYPES, ITEMS

Rows = npt.NDArray[np.int32]
"""Windows of one padded length, int32 [rows, channels * length]: items, then ``Channels``.
A negative item is the input -item, but no target: an older window has it as one."""

_SECONDS_AN_HOUR = 3600


@dataclass(frozen=True)
class Channels:
    """What rows hold of each event besides its item.

    Attributes:
        hours: its time, hours since 1970 (UTC).
        event_types: the code of its type.
    """

    hours: bool = False
    event_types: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Channels:
        """What a training with these settings looks at."""
        recency = settings.train.recency_half_life_days is not None
        return cls(recency or settings.model.time_gaps, settings.model.event_types)

    @property
    def size(self) -> int:
        """Numbers of each event."""
        return 1 + self.hours + self.event_types

    @property
    def columns(self) -> list[str]:
        """Columns of gold/training_sequences, in the order of rows."""
        names = [ITEMS]
        if self.hours:
            names.append(EVENT_TIMES)
        if self.event_types:
            names.append(EVENT_TYPES)
        return names

    def split(self, rows: Rows) -> tuple[Rows, Rows | None, Rows | None]:
        """Items, hours and event types of rows, each [rows, length] or None."""
        items, *others = np.split(rows, self.size, axis=1)
        hours = others.pop(0) if self.hours else None
        return items, hours, others.pop(0) if self.event_types else None


def pack_rows(
    items: npt.NDArray[Any],
    context: npt.NDArray[Any],
    event_times: npt.NDArray[Any] | None = None,
    event_types: npt.NDArray[Any] | None = None,
) -> Rows:
    """Rows of a feed.

    Args:
        items: [rows, length], zeros in front.
        context: [rows], how many of each row's first items are no targets.
        event_times: Unix seconds [rows, length]; None: rows without hours.
        event_types: codes [rows, length]; None: rows without.
    """
    length = items.shape[1]
    first_target = length - np.count_nonzero(items, axis=1) + context
    parts = [np.where(np.arange(length) < first_target[:, None], -items, items)]
    if event_times is not None:
        parts.append(event_times // _SECONDS_AN_HOUR)
    if event_types is not None:
        parts.append(event_types)
    return np.concatenate(parts, axis=1).astype(np.int32, copy=False)
