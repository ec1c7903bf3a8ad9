"""A bounded, seeded shuffle of rows that come row group by row group."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from recsys.train.plan import rows_of_batch
from recsys.train.rows import Rows


class ShuffleBuffer:
    """Rows of several padded lengths; gives batches of one length each, at random.

    While row groups still come, only full batches leave; at the end the rest does. So the number
    of batches is the sum over lengths of ceil(rows / batch_size), whatever the order.

    Args:
        capacity: rows held before batches leave.
        batch_size, batch_events: see ``plan.rows_of_batch``.
        choose_bucket: decides the lengths. Give all ranks the same one: their buffers hold much
            the same, so they take batches of the same length together.
        choose_rows: decides the rows.
        channels: what rows hold of each event; their width is this times their length.
    """

    def __init__(
        self,
        capacity: int,
        batch_size: int,
        choose_bucket: np.random.Generator,
        choose_rows: np.random.Generator,
        batch_events: int | None = None,
        channels: int = 1,
    ) -> None:
        self._capacity, self._channels = capacity, channels
        self._batch_size, self._batch_events = batch_size, batch_events
        self._choose_bucket, self._choose_rows = choose_bucket, choose_rows
        self._pools: dict[int, _Pool] = {}

    def batches(self, row_groups: Iterable[Rows]) -> Iterator[Rows]:
        """Batches of all rows of ``row_groups``, each row exactly once."""
        for rows in row_groups:
            self._pool(rows.shape[1]).add(rows)
            while self._total() >= self._capacity:
                full = {b: p for b, p in self._pools.items() if p.count >= p.batch_rows}
                if not full:
                    break
                yield self._take(full)
        while left := {b: p for b, p in self._pools.items() if p.count}:
            yield self._take(left)

    def _pool(self, width: int) -> _Pool:
        if width not in self._pools:
            bucket = width // self._channels
            most = rows_of_batch(bucket, self._batch_size, self._batch_events)
            self._pools[width] = _Pool(width, most)
        return self._pools[width]

    def _total(self) -> int:
        return sum(pool.count for pool in self._pools.values())

    def _take(self, pools: dict[int, _Pool]) -> Rows:
        buckets = sorted(pools)
        shares = np.cumsum([pools[bucket].count for bucket in buckets])
        at = np.searchsorted(shares, self._choose_bucket.random() * shares[-1], side="right")
        return pools[buckets[int(at)]].take(self._choose_rows)


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
