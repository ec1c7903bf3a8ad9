"""A measurement on Horovod ranks of this machine, and windows drawn as they are asked for."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys import schemas
from recsys.schemas import DataFile, PinnedTable
from recsys.train.batch_stream import BatchStream
from recsys.train.communication import Communicator, SingleProcess
from recsys.train.horovod_communication import HorovodCommunicator


def run_on_ranks(module: str, ranks: int, *arguments: str) -> list[dict[str, Any]]:
    """What each rank of ``python -m module --one FOLDER ...`` reported, by rank."""
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as folder:
        command = [sys.executable, "-m", module, "--one", folder, *arguments]
        if ranks > 1:
            horovod = ["-m", "horovod.runner.launch", "--gloo", "--network-interface", "lo"]
            command = [sys.executable, *horovod, "-np", str(ranks), *command]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, env=environment, check=True, stdout=sys.stderr)
        files = [Path(folder) / f"rank-{rank}.json" for rank in range(ranks)]
        return [json.loads(file.read_text()) for file in files]


def join_ranks() -> Communicator:
    """This process as a rank: alone where no launcher of Horovod has started it."""
    return HorovodCommunicator() if "HOROVOD_RANK" in os.environ else SingleProcess()


def report(folder: str, communicator: Communicator, figures: dict[str, Any]) -> None:
    """Leave figures for ``run_on_ranks``, with the most memory that this rank has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    path = Path(folder) / f"rank-{communicator.rank}.json"
    path.write_text(json.dumps({**figures, "peak_bytes": peak}))


class DrawnFeed:
    """Full windows of items drawn evenly; one window of two events validates."""

    def __init__(self, rank: int, steps: int, windows: int, length: int, items: int) -> None:
        self._rank, self._steps, self._shape, self._items = rank, steps, (windows, length), items

    def steps_per_epoch(self, epoch: int) -> int:
        """Batches of a rank."""
        return self._steps

    def epoch(self, epoch: int, skip: int = 0) -> BatchStream:
        """Batches of this rank."""
        return BatchStream(self._draw(epoch, skip), prefetch=2)

    def validation(self) -> BatchStream:
        """The same on every rank."""
        return BatchStream(iter([np.array([[1, 2]], dtype=np.int32)]), prefetch=1)

    def _draw(self, epoch: int, skip: int) -> Iterator[npt.NDArray[np.int32]]:
        for step in range(skip, self._steps):
            generator = np.random.default_rng((epoch, step, self._rank))
            yield generator.integers(1, self._items + 1, self._shape, dtype=np.int32)


def longest(length: int) -> PinnedTable:
    """A table that says how long windows are, and holds none."""
    file = DataFile("memory:///none", schemas.TRAIN_SPLIT, length, 0)
    return PinnedTable(schemas.GOLD_TRAINING_SEQUENCES.name, 0, (file,))
