"""Ends a rank that waits in vain for another one, and names that other one.

Horovod does not: on Gloo its own inspector of stalled tensors never sees a missing rank
(``GlooController::DoInitialization`` of 0.28.1 only reserves the list of ranks that the inspector
counts), so ranks would wait forever for one that hangs.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from recsys.files import write_atomically
from recsys.train.rank_files import WAITING_FILE

_MOST_POLL_SECONDS = 1.0
_WAITS = ("/horovod/", "/horovod_waits.py", "/torch/distributed/")
"""In the path of code that waits for other ranks: collectives, and states between stages."""


class Watchdog:
    """Watches the thread that makes it, from another one.

    A rank that waits for others leaves a file in the job's folder; after ``seconds`` those without
    one are to blame: they hang, or never came.

    Args:
        folder: of the job, shared by all ranks.
        rank: of this process; an elastic training changes it.
        seconds: from which on a wait is in vain; the file is there after half of them.
        give_up: is called then, with the waiting ranks, once for each wait.
    """

    def __init__(
        self, folder: Path, rank: int, seconds: float, give_up: Callable[[set[int]], None]
    ) -> None:
        self.rank = rank
        self._folder, self._seconds, self._give_up = folder, seconds, give_up
        self._watched, self._stop = threading.get_ident(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        seen: FrameType | None = None
        marker: Path | None = None
        since, gave_up = time.monotonic(), False
        while not self._stop.wait(min(_MOST_POLL_SECONDS, self._seconds / 8)):
            frame = self._waiting_frame()
            if frame is None or frame is not seen:
                seen, since, gave_up = frame, time.monotonic(), False
                if marker is not None:
                    marker.unlink(missing_ok=True)
                    marker = None
                continue
            waited = time.monotonic() - since
            if marker is None and waited >= self._seconds / 2:
                marker = self._folder / WAITING_FILE.format(rank=self.rank)
                write_atomically(marker, b"")
            if waited >= self._seconds and not gave_up:
                gave_up = True
                self._give_up(find_waiting(self._folder))

    def _waiting_frame(self) -> FrameType | None:
        """The call of such code that the watched thread is in; the same object as long as it is."""
        frame = sys._current_frames().get(self._watched)
        waits = frame is not None and any(part in frame.f_code.co_filename for part in _WAITS)
        return frame if waits else None


def find_waiting(folder: Path) -> set[int]:
    """Ranks that wait for others."""
    found = folder.glob(WAITING_FILE.format(rank="*"))
    return {int(path.name.rpartition("-")[2]) for path in found}
