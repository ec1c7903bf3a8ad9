"""A bounded, seeded shuffle of rows that come row group by row group."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from recsys.train.plan import rows_of_batch
from recsys.train.rows import Rows


class ShuffleBuffer:
    """Rows of several padded lengths; gives batches of one length each, rows at random.

    While row groups still come, only full batches leave; at the end the rest does. So the number
    of batches is the sum over lengths of ceil(rows / batch_size), whatever the order.

    Args:
        capacity: rows held before batches leave.
        batch_size, batch_events: see ``plan.rows_of_batch``.
        buckets: the length of each batch, in the order wanted. While there are not enough rows of
            one, its turn is put off.
        choose_rows: decides the rows.
        channels: what rows hold of each event; their width is this times their length.
    """

    def __init__(
        self,
        capacity: int,
        batch_size: int,
        buckets: Iterable[int],
        choose_rows: np.random.Generator,
        batch_events: int | None = None,
        channels: int = 1,
    ) -> None:
        self._capacity, self._channels = capacity, channels
        self._batch_size, self._batch_events = batch_size, batch_events
        self._choose_rows = choose_rows
        self._turns: dict[int, deque[int]] = {}
        for turn, bucket in enumerate(buckets):
            self._turns.setdefault(bucket * channels, deque()).append(turn)
        self._pools: dict[int, _Pool] = {}

    def batches(self, row_groups: Iterable[Rows]) -> Iterator[Rows]:
        """Batches of all rows of ``row_groups``, each row exactly once."""
        for rows in row_groups:
            self._pool(rows.shape[1]).add(rows)
            while self._total() >= self._capacity:
                full = [width for width, p in self._pools.items() if p.count >= p.batch_rows]
                if not full:
                    break
                yield self._take(full)
        while left := [width for width, pool in self._pools.items() if pool.count]:
            yield self._take(left)

    def _pool(self, width: int) -> _Pool:
        if width not in self._pools:
            bucket = width // self._channels
            most = rows_of_batch(bucket, self._batch_size, self._batch_events)
            self._pools[width] = _Pool(width, most)
        return self._pools[width]

    def _total(self) -> int:
        return sum(pool.count for pool in self._pools.values())

    def _take(self, widths: Iterable[int]) -> Rows:
        """A batch of the one of these widths whose turn is first."""
        width = min(widths, key=self._next_turn)
        if turns := self._turns.get(width):
            turns.popleft()
        return self._pools[width].take(self._choose_rows)

    def _next_turn(self, width: int) -> float:
        turns = self._turns.get(width)
        return turns[0] if turns else math.inf


class _Pool:
    """Rows of one length in an array that grows; taking moves the last rows into the holes."""

    def __init__(self, width: int, batch_rows: int) -> None:
        self._rows: Rows = np.empty((0, width), dtype=np.int32)
        self.batch_rows = batch_rows
        self.count = 0

    def add(self, rows: Rows) -> None:
        needed = self.count + len(rows)
        if needed > len(self._rows):
            grown = np.empty((max(needed, 2 * len(self._rows)), self._rows.shape[1]), np.int32)
            grown[: self.count] = self._rows[: self.count]
            self._rows = grown
        self._rows[self.count : needed] = rows
        self.count = needed

    def take(self, choose: np.random.Generator) -> Rows:
        wanted = min(self.batch_rows, self.count)
        chosen = choose.choice(self.count, wanted, replace=False)
        taken: Rows = self._rows[chosen]
        keep = self.count - wanted
        tail = np.ones(wanted, dtype=bool)
        tail[chosen[chosen >= keep] - keep] = False
        self._rows[np.sort(chosen[chosen < keep])] = self._rows[keep : self.count][tail]
        self.count = keep
        return taken
