"""What a person sees while training runs: a bar on a terminal, a line an epoch in a log."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from tqdm import tqdm

log = logging.getLogger(__name__)


class ProgressReport:
    """Loss and speed of rank 0; other ranks stay silent.

    Args:
        rank: of this process.
        epochs: epochs at most, for the title.
    """

    def __init__(self, rank: int, epochs: int) -> None:
        self._speaks, self._epochs = rank == 0, epochs
        self._bar: tqdm[Any] | None = None
        self._started, self._events = time.perf_counter(), 0

    def start_epoch(self, epoch: int, steps: int, done: int) -> None:
        """Begin an epoch (from 0) of ``steps`` steps, ``done`` of them by an earlier process."""
        self._started, self._events = time.perf_counter(), 0
        if self._speaks and sys.stderr.isatty():
            title = f"epoch {epoch + 1}/{self._epochs}"
            self._bar = tqdm(total=steps, initial=done, desc=title, unit="step", leave=False)

    def step(self, loss: float, events: int, steps: int) -> None:
        """``steps`` more steps with ``events`` targets and a mean loss (nats per target)."""
        self._events += events
        if self._bar is not None:
            speed = self._events / max(1e-9, time.perf_counter() - self._started)
            self._bar.set_postfix(loss=f"{loss:.3f}", events_per_second=f"{speed:,.0f}")
            self._bar.update(steps)

    def end_epoch(self, epoch: int, figures: dict[str, float]) -> None:
        """Close the bar and write one line with the epoch's figures."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._speaks:
            text = " ".join(f"{name}={value:.5g}" for name, value in figures.items())
            log.info("epoch %d/%d %s", epoch + 1, self._epochs, text)
