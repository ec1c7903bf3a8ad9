"""A process that may hold so much memory and no more: a Linux control group around it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
_TRIES, _PAUSE_SECONDS = 100, 0.1
_LIMITS = ("memory.limit_in_bytes", "memory.max")


@contextmanager
def limited_group(limit_bytes: int) -> Iterator[Path]:
    """A control group with a limit of memory, the page cache included; needs root.

    What outgrows it is ended by the kernel. A process joins with :func:`join`, and all that it
    starts is in it too.

    Raises:
        OSError: this user may make no control group, or the kernel has no memory controller.
    """
    root = _V1 if _V1.is_dir() else _V2
    group = root / f"recsys-bench-{os.getpid()}"
    group.mkdir()
    try:
        for name in _LIMITS:
            if (group / name).exists():
                (group / name).write_text(str(limit_bytes))
                break
        else:
            raise OSError(f"no memory controller in {root}; it has to be enabled by the system")
        yield group
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    """What the process has started may still be ending."""
    for _ in range(_TRIES):
        try:
            return group.rmdir()
        except OSError:
            time.sleep(_PAUSE_SECONDS)
    group.rmdir()


def join(group: Path) -> None:
    """Put this process into the group."""
    (group / "cgroup.procs").write_text(str(os.getpid()))
