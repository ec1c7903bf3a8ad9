"""Exact lists from a catalogue that does not fit into memory: item blocks come from mapped files.

    python -m benchmarks.huge_catalogue [--items 100000000] [--dims 32] [--users 1024] [--memory 6]

Vectors from a normal distribution are written to a file and laid out as an index in a folder, as
the first scoring worker of a machine does. Then a process that may hold `--memory` GiB in all, the
page cache included (as root; 0: no limit), maps the index and ranks users on one thread, lists of
100 without 50 seen items each, twice. Some of the lists are compared with those of a full sort of
all scores, made from the file that was written first.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.machine import describe_machine
from benchmarks.processes import measure_alone
from recsys.ranking.exact_top_n import rank_products
from recsys.ranking.item_index import build_index, load_index

N, SEEN, SOME, CHECKED = 100, 50, 1_000_000, 4
VECTORS, INDEX = "vectors.npy", "index"


def main() -> None:
    """Lay out and rank, in processes of their own, and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000_000)
    parser.add_argument("--dims", type=int, default=32)
    parser.add_argument("--users", type=int, default=1024)
    parser.add_argument("--memory", type=float, default=6.0, help="GiB for ranking")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, folder, *sizes = options.one
        print(json.dumps(ONE[name](Path(folder), *map(int, sizes))))
        return
    limit = int(options.memory * 2**30) or None
    sizes = [str(size) for size in (options.items, options.dims, options.users)]
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as folder:
        built = measure_alone("benchmarks.huge_catalogue", "build", folder, *sizes)
        forget(Path(folder))
        ranked = measure_alone(
            "benchmarks.huge_catalogue", "rank", folder, *sizes, limit_bytes=limit
        )
    record = {"benchmark": "huge_catalogue", "machine": describe_machine(), **vars(options)}
    print(json.dumps({**record, "built": built, "ranked": ranked}))


def forget(folder: Path) -> None:
    """Drop files from the page cache: what lies there already is not held against a limit."""
    for path in (file for file in folder.rglob("*") if file.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def build(folder: Path, items: int, dims: int, users: int) -> dict[str, Any]:
    """Write vectors, and the index of all of them."""
    dice = np.random.default_rng(1)
    shape = (items + 1, dims)
    vectors = np.lib.format.open_memmap(folder / VECTORS, "w+", np.dtype(np.float32), shape)
    for at in range(0, len(vectors), SOME):
        part = vectors[at : at + SOME]
        part[:] = dice.standard_normal(part.shape, dtype=np.float32)
    vectors.flush()
    started = time.perf_counter()
    (folder / INDEX).mkdir()
    every = torch.ones(items + 1, dtype=torch.bool)
    build_index(torch.from_numpy(vectors), every, folder=folder / INDEX)
    size = sum(file.stat().st_size for file in (folder / INDEX).iterdir())
    return {"seconds": round(time.perf_counter() - started, 1), "gib": round(size / 2**30, 2)}


def rank(folder: Path, items: int, dims: int, users: int) -> dict[str, Any]:
    """Lists of all users, twice, and how many of those that were looked at are right."""
    torch.set_num_threads(1)
    dice = np.random.default_rng(2)
    given = torch.from_numpy(dice.standard_normal((users, dims), dtype=np.float32))
    seen = list(dice.integers(1, items + 1, (users, SEEN)))
    index = load_index(folder / INDEX)
    rates = []
    for _ in range(2):
        wall, processor = time.perf_counter(), time.process_time()
        lists = rank_products(given, index, N, seen)
        rates.append((time.perf_counter() - wall, time.process_time() - processor))
    vectors = np.load(folder / VECTORS, mmap_mode="r")
    right = sum(
        lists.items[user].tolist() == sort_all(given[user].numpy(), vectors, seen[user])
        for user in range(min(CHECKED, users))
    )
    pairs = users * items
    return {
        "seconds": [round(wall, 1) for wall, _ in rates],
        "million_pairs_a_processor_second": [round(pairs / cpu / 1e6) for _, cpu in rates],
        "right": right,
        "looked_at": min(CHECKED, users),
    }


def sort_all(
    user: npt.NDArray[np.float32], vectors: npt.NDArray[np.float32], seen: npt.NDArray[Any]
) -> list[int]:
    """The list of one user from all scores, equal ones by the lower item."""
    scores = np.empty(len(vectors), np.float32)
    for at in range(0, len(vectors), SOME):
        part = vectors[at : at + SOME].astype(np.float64)
        scores[at : at + SOME] = part @ user.astype(np.float64)
    scores[0], scores[seen] = -np.inf, -np.inf
    last = np.partition(scores, len(scores) - N)[len(scores) - N]
    best = np.flatnonzero(scores >= last)
    return list(best[np.lexsort((best, -scores[best]))][:N].tolist())


ONE = {"build": build, "rank": rank}

if __name__ == "__main__":
    main()
