"""Where a scoring worker ranks: on the CPU, or on a GPU that Spark has given to its task."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pyspark import TaskContext

from recsys.errors import ConfigError
from recsys.score.pack import ScoringPack
from recsys.score.ranker import index_items

_NO_GPU = "finds no GPU on this executor"


def find_device(wanted: str) -> torch.device:
    """The device of a task.

    Of several GPUs the one that Spark has given to the task (``spark.task.resource.gpu.amount``);
    where it gives none, one by the process's number, so that a worker stays where its model is.

    Raises:
        ConfigError: a GPU is wanted, and torch finds none on this machine.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if not count:
        raise _lack_of_gpu()
    task = TaskContext.get()
    given = task.resources().get("gpu") if task else None
    return torch.device("cuda", os.getpid() % count if given is None else int(given.addresses[0]))


def _lack_of_gpu() -> ConfigError:
    return ConfigError(
        f"score.device=cuda, and torch {_NO_GPU}",
        do="set score.device=cpu, or give executors GPUs and a torch built for them",
    )


@contextmanager
def explain_lack_of_gpu() -> Iterator[None]:
    """Turn Spark's report of what ``find_device`` said in a worker into that error again.

    Raises:
        ConfigError: a worker found no GPU.
    """
    try:
        yield
    except Exception as error:
        # The lake's error, that its table could not be written, has Spark's behind it.
        if _NO_GPU in f"{error}{error.__cause__}":
            raise _lack_of_gpu() from error
        raise


def move(pack: ScoringPack, device: torch.device) -> ScoringPack:
    """A pack whose model, ranker and item vectors lie on a device; each process has its own.

    Args:
        pack: its index is not looked at.
    """
    model = pack.model.to(device)
    index = index_items(model, pack.popularity)
    ranker = None if pack.ranker is None else pack.ranker.to(device)
    return dataclasses.replace(pack, model=model, index=index, ranker=ranker)
