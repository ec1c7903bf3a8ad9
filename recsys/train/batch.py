"""What a model gets in one step: windows, where their targets are, and what each is worth."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import date

import numpy as np
import torch
from torch import Tensor

from recsys.train.rows import Channels, Rows

_HOURS_A_DAY = 24
_MOST_HALVINGS = 20.0
"""Events older than this many half-lives weigh like those (1e-6), so that no sum becomes 0."""


@dataclass(frozen=True)
class Recency:
    """Weight 2 ** (-age / half-life) of an event, its age counted to the end of the run date.

    Only ratios matter, since losses are divided by the sum of weights.

    Attributes:
        half_life_days: age difference that halves a weight.
        run_date: the night's date.
    """

    half_life_days: float
    run_date: date

    def weigh(self, hours: Rows) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        """Weights float32, shaped like ``hours`` (int32, hours since 1970, UTC)."""
        end = (self.run_date.toordinal() + 1 - date(1970, 1, 1).toordinal()) * _HOURS_A_DAY
        halvings = (end - hours) / (self.half_life_days * _HOURS_A_DAY)
        return np.exp2(-np.clip(halvings, 0.0, _MOST_HALVINGS)).astype(np.float32)


@dataclass(frozen=True)
class Batch:
    """Windows of one padded length.

    Attributes:
        items: int64 [rows, length], oldest first, zeros in front; no rows in an empty batch.
        positions: int64 [targets], flat indices into [rows, length - 1]: real inputs whose next
            item is a target. Found here, on the CPU, so that a GPU need not wait.
        weights: float32 [rows, length], what each item is worth as a target; None: all the same.
        hours: int32 [rows, length], times of the events, for models that look at them.
        event_types: int32 [rows, length], their types, likewise.
        labels: float32 [rows, length], what came of the events; NaN where there is no label.
        user_idx: int64 [rows], whose they are.
        user_attributes: int32 [rows, codes], hashes of what is known of these users, 0: no more.
    """

    items: Tensor
    positions: Tensor
    weights: Tensor | None = None
    hours: Tensor | None = None
    event_types: Tensor | None = None
    labels: Tensor | None = None
    user_idx: Tensor | None = None
    user_attributes: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``; from pinned memory the copy does not block."""
        if device.type == "cpu":
            return self
        return self._each(lambda part: part.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The batch in memory that a GPU copies from while the CPU goes on."""
        return self._each(lambda part: part.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        parts = (getattr(self, field.name) for field in dataclasses.fields(self))
        return Batch(*(None if part is None else change(part) for part in parts))  # type: ignore[arg-type]

    def at(self, places: Tensor) -> Batch:
        """The rows that ``places`` (flat, as positions) are in, with these places as positions."""
        width = max(1, self.items.shape[1] - 1)
        rows, row = (places // width).unique(return_inverse=True)
        others = dataclasses.replace(self, positions=self.items[:, 0])
        chosen = others._each(lambda part: part.index_select(0, rows))
        return dataclasses.replace(chosen, positions=row * width + places % width)

    def inputs(self, looks_at: Collection[str] | None = None) -> dict[str, Tensor]:
        """What a model gets besides items: of the events all but each row's last, and of users.

        Args:
            looks_at: names (see ``ModelConfig``); None: all that there are.
        """
        events = {"hours": self.hours, "event_types": self.event_types}
        given = {name: None if part is None else part[:, :-1] for name, part in events.items()}
        given["user_attributes"] = self.user_attributes
        return {
            name: part
            for name, part in given.items()
            if part is not None and (looks_at is None or name in looks_at)
        }

    def choose_targets(self, horizon: int) -> tuple[Tensor, Tensor | None]:
        """Targets int64 [targets] and their weights float32 [targets] (None: all the same).

        The target of a position is drawn evenly from its next ``horizon`` items (fewer at the
        end of the window) with torch's global generator; 1 takes the next one. Best called before
        ``to``: a GPU would have to be waited for.

        Source: the "dense all action" objective of Pancha et al. 2022, "PinnerFormer", section
        3.3, there with a window in days.
        """
        length = self.items.shape[1]
        row, column = self.positions // (length - 1), self.positions % (length - 1)
        chosen = row * length + column + 1
        if horizon > 1:
            room = (length - 1 - column).clamp(max=horizon)
            chosen = chosen + (torch.rand(room.shape, device=room.device) * room).long()
        targets = self.items.flatten().index_select(0, chosen)
        if self.weights is None:
            return targets, None
        return targets, self.weights.flatten().index_select(0, chosen)


def make_batch(
    rows: Rows,
    recency: Recency | None,
    channels: Channels | None = None,
    user_codes: Rows | None = None,
) -> Batch:
    """A batch from rows.

    Args:
        rows: what ``channels`` says.
        recency: weighs targets; needs hours.
        channels: None is hours where ``recency`` is given, and nothing else.
        user_codes: what is known of users (see ``user_links``), int32 [users, codes]; needs
            user_idx among the channels.
    """
    channels = channels or Channels(hours=recency is not None)
    parts = channels.split(rows)
    items, labels, users = parts["items"], parts.get("labels"), parts.get("user_idx")
    real = (items[:, :-1] != 0) & (items[:, 1:] > 0)
    weights = None
    if recency is not None:
        weights = torch.from_numpy(recency.weigh(parts["hours"]))
    events = (parts.get(name) for name in ("hours", "event_types"))
    hours, event_types = (
        None if part is None else torch.from_numpy(np.ascontiguousarray(part)) for part in events
    )
    if labels is not None:
        labels = np.ascontiguousarray(labels).view(np.float32)
    codes = None
    if user_codes is not None and users is not None:
        # Whoever comes after the last user with attributes has none, like user 0.
        known = np.where(users[:, 0] < len(user_codes), users[:, 0], 0)
        codes = torch.from_numpy(user_codes[known])
    return Batch(
        torch.from_numpy(np.abs(items).astype(np.int64)),
        torch.from_numpy(np.flatnonzero(real)),
        weights,
        hours,
        event_types,
        None if labels is None else torch.from_numpy(labels),
        None if users is None else torch.from_numpy(users[:, 0].astype(np.int64)),
        codes,
    )


def group_batches(batches: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    """Lists of ``size`` batches; the last one may be shorter."""
    while group := list(itertools.islice(batches, size)):
        yield group
