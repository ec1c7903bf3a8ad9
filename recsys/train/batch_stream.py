"""Batches made ahead of the model, in a thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

from recsys.train.batch import Batch, Recency, make_batch
from recsys.train.rows import Channels, Rows

_POLL_SECONDS = 0.05


class BatchStream:
    """Iterates over batches that a thread makes ahead; counts the seconds the model waited.

    An exception in the thread is raised in the consumer. ``close`` (or leaving a ``with`` block)
    stops the thread, and with it the readers behind it.
    """

    def __init__(
        self,
        rows: Iterator[Rows],
        prefetch: int,
        recency: Recency | None = None,
        pin_memory: bool = False,
        channels: Channels | None = None,
        user_codes: Rows | None = None,
    ) -> None:
        self._rows, self._recency, self._pin_memory = rows, recency, pin_memory
        self._channels, self._user_codes = channels, user_codes
        self._queue: queue.Queue[Batch | BaseException | None] = queue.Queue(prefetch)
        self._stop = threading.Event()
        self.waited_seconds = 0.0
        self._thread = threading.Thread(target=self._produce, name="feed", daemon=True)
        self._thread.start()

    def __iter__(self) -> BatchStream:
        return self

    def __next__(self) -> Batch:
        started = time.perf_counter()
        made = self._queue.get()
        self.waited_seconds += time.perf_counter() - started
        if isinstance(made, Batch):
            return made
        self._queue.put(made)  # whoever asks again gets the same answer
        if made is None:
            raise StopIteration
        raise made

    def __enter__(self) -> BatchStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the thread and wait for it; can be called twice."""
        self._stop.set()
        self._thread.join()

    def _produce(self) -> None:
        try:
            for rows in self._rows:
                batch = make_batch(rows, self._recency, self._channels, self._user_codes)
                if not self._put(batch.pin_memory() if self._pin_memory else batch):
                    break
            self._put(None)
        except BaseException as error:  # handed to the consumer
            self._put(error)
        finally:
            close = getattr(self._rows, "close", None)
            if close is not None:
                close()

    def _put(self, made: Batch | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(made, timeout=_POLL_SECONDS)
                return True
            except queue.Full:
                continue
        return False
