"""How a rank waits for Horovod: asleep, so that others have its processor.

By itself Horovod looks again at once (``WaitAndClear`` in horovod/torch/mpi_ops_v2.cc of 0.28.1): a
rank that waits then takes a core from those that it waits for, where ranks are more than cores.
"""

from __future__ import annotations

import functools
import time

_LOOK_SECONDS = 0.0003  # a third of the time after which Horovod looks for new tensors


@functools.cache
def sleep_in_waits() -> None:
    """Let all waits of this process sleep between two looks; ``Watchdog`` knows them by this file.

    Each of Horovod's functions for PyTorch that waits does so by the one that is replaced here.
    """
    from horovod.torch import mpi_ops

    library = mpi_ops.mpi_lib
    has_ended, finish = library.horovod_torch_poll, library.horovod_torch_wait_and_clear

    def wait(handle: int) -> None:
        while not has_ended(handle):
            time.sleep(_LOOK_SECONDS)
        finish(handle)

    library.horovod_torch_wait_and_clear = wait
