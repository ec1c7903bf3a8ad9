"""Windows with planted clicks: as their chances are known, so is the best that a ranker can do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recsys import schemas
from recsys.schemas import TRAIN_SPLIT, VALIDATION_SPLIT, DataFile, PinnedTable
from tests.training_tables import DAY, FIRST_DAY, ITEMS, Windows

CLUSTERS = 4
LIKED, OTHER = 0.85, 0.1
"""Chance of a click on an item of the user's cluster, and on any other."""
_CODES = {name: schemas.EVENT_TYPE_CODES[name] for name in ("view", "click", "purchase")}


@dataclass(frozen=True)
class Clicks:
    """A table of windows, [rows, length] a file.

    Attributes:
        table, contents: as of ``training_tables.make_table``.
        best: of the validation file, the chance of a click at each event, given the events before
            it and how users and clicks are made (Bayes), [rows, length].
    """

    table: PinnedTable
    contents: Windows
    best: npt.NDArray[np.float64]


def cluster_of(items: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return items % CLUSTERS


def make_clicks(files: int, rows: int, length: int, seed: int = 0) -> Clicks:
    """``files`` training files and a validation file of ``rows`` windows."""
    generator = np.random.default_rng(seed)
    contents, found = {}, []
    best = np.zeros((rows, length))
    for number in range(files + 1):
        split = TRAIN_SPLIT if number < files else VALIDATION_SPLIT
        url = Path(f"/clicks/{number}.parquet").as_uri()
        contents[url], best = _make_windows(rows, length, generator)
        found.append(DataFile(url, split, length, rows))
    table = PinnedTable(schemas.GOLD_TRAINING_SEQUENCES.name, 3, tuple(found))
    return Clicks(table, contents, best)


def _make_windows(
    rows: int, length: int, generator: np.random.Generator
) -> tuple[dict[str, npt.NDArray[np.int64]], npt.NDArray[np.float64]]:
    items = generator.integers(1, ITEMS + 1, (rows, length))
    likes = generator.integers(0, CLUSTERS, (rows, 1))
    clicked = generator.random((rows, length)) < np.where(cluster_of(items) == likes, LIKED, OTHER)
    kind = np.where(generator.random((rows, length)) < 0.5, _CODES["click"], _CODES["purchase"])
    times = (FIRST_DAY + np.zeros((rows, length), dtype=np.int64)) * DAY
    columns = {
        schemas.ITEMS: items,
        schemas.CONTEXT: np.zeros(rows, dtype=np.int64),
        schemas.EVENT_TIMES: times,
        schemas.EVENT_TYPES: np.where(clicked, kind, _CODES["view"]),
    }
    return columns, _best_guess(items, clicked)


def _best_guess(
    items: npt.NDArray[np.int64], clicked: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Of each event: its chance of a click under the posterior over the user's cluster."""
    of_cluster = cluster_of(items)[..., None] == np.arange(CLUSTERS)
    chance = np.where(of_cluster, LIKED, OTHER)
    evidence = np.log(np.where(clicked[..., None], chance, 1 - chance))
    before = np.cumsum(evidence, axis=1) - evidence
    posterior = np.exp(before - before.max(axis=2, keepdims=True))
    posterior /= posterior.sum(axis=2, keepdims=True)
    found: npt.NDArray[np.float64] = (posterior * chance).sum(axis=2)
    return found
