"""What is left to do of a step while the next one begins."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self


class Behind:
    """One piece of work at a time, in a thread of its own; none is left when the block ends.

    A step's tables are checked and its run is recorded while the next step plans its queries, which
    would let the cores idle.

    Attributes:
        ended: when the last piece did (``time.monotonic``).
    """

    def __init__(self) -> None:
        self.ended = 0.0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="behind")
        self._left: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin with ``work`` when what is left has ended.

        Raises:
            Exception: as ``wait``.
        """
        self.wait()
        self._left = self._pool.submit(self._run, work)

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            self.ended = time.monotonic()

    def wait(self) -> None:
        """Until nothing is left.

        Raises:
            Exception: what the work has raised.
        """
        left, self._left = self._left, None
        if left is not None:
            left.result()

    def settle(self) -> None:
        """Until nothing is left; what the work has raised is left to ``wait``."""
        if self._left is not None:
            self._left.exception()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown()
        if error is None:
            self.wait()
