"""A measurement on Horovod ranks of this machine, and windows drawn as they are asked for."""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recsys import schemas
from recsys.schemas import DataFile, PinnedTable
from recsys.train.batch_stream import BatchStream
from recsys.train.communication import SingleProcess
from recsys.train.horovod_communication import HorovodCommunicator


def run_on_ranks(
    measure: Callable[..., dict[str, Any]], ranks: int, *arguments: Any, splits: bool = False
) -> list[dict[str, Any]]:
    """What ``measure`` found on each rank, and ``peak_bytes``: the most memory that it has held.

    Args:
        measure: a function of a module, called with the rank's communicator, a folder of the ranks'
            own and ``arguments``.
        arguments: what JSON can say.
        splits: as for ``HorovodCommunicator``.
    """
    # Of the benchmark that runs as __main__ this is the name by which ranks can import it.
    spec = sys.modules[measure.__module__].__spec__
    assert spec is not None
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as folder:
        call = [spec.name, measure.__name__, folder, json.dumps([splits, *arguments])]
        command = [sys.executable, "-m", "benchmarks.ranks", *call]
        if ranks > 1:
            horovod = ["-m", "horovod.runner.launch", "--gloo", "--network-interface", "lo"]
            command = [sys.executable, *horovod, "-np", str(ranks), *command]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, env=environment, check=True, stdout=sys.stderr)
        files = [Path(folder) / f"rank-{rank}.json" for rank in range(ranks)]
        return [json.loads(file.read_text()) for file in files]


def be_a_rank(module: str, name: str, folder: str, call: str) -> None:
    """Measure as ``run_on_ranks`` has asked; alone where no launcher of Horovod has started it."""
    torch.set_num_threads(1)
    splits, *arguments = json.loads(call)
    started = "HOROVOD_RANK" in os.environ
    communicator = HorovodCommunicator(splits) if started else SingleProcess()
    measure = getattr(importlib.import_module(module), name)
    figures = measure(communicator, Path(folder), *arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    path = Path(folder) / f"rank-{communicator.rank}.json"
    path.write_text(json.dumps({**figures, "peak_bytes": peak}))
    communicator.shutdown()


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


if __name__ == "__main__":
    be_a_rank(*sys.argv[1:])
