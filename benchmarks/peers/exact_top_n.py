"""Exact top-n by faiss (no filter) or implicit (seen items filtered); runs in .venv-peers.

In one thread; prints JSON. numpy's OpenBLAS, and faiss's, guess the processor; where they guess
wrong the variable OPENBLAS_CORETYPE names it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_matrix


def main() -> None:
    """Search and print the processor seconds of each repeat."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=["faiss", "implicit"])
    for name in ("items", "users", "dims", "n", "seen", "repeats"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    dice = np.random.default_rng(1)
    items = dice.standard_normal((options.items, options.dims), dtype=np.float32)
    users = dice.standard_normal((options.users, options.dims), dtype=np.float32)
    seen = dice.integers(0, options.items, (options.users, options.seen))
    search = {"faiss": search_faiss, "implicit": search_implicit}[options.library]
    run = search(items, users, seen, options.n)
    run()
    seconds = []
    for _ in range(options.repeats):
        started = time.process_time()
        run()
        seconds.append(time.process_time() - started)
    print(json.dumps({"seconds": seconds}))


def search_faiss(
    items: np.ndarray, users: np.ndarray, seen: np.ndarray, n: int
) -> Callable[[], object]:
    """All inner products; seen items stay in."""
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items)
    return lambda: index.search(users, n)


def search_implicit(
    items: np.ndarray, users: np.ndarray, seen: np.ndarray, n: int
) -> Callable[[], object]:
    """Its own product and selection."""
    from implicit.cpu.topk import topk

    rows = np.repeat(np.arange(len(users)), seen.shape[1])
    known = csr_matrix(
        (np.ones(seen.size, dtype=np.float32), (rows, seen.ravel())), (len(users), len(items))
    )
    return lambda: topk(items, users, n, filter_query_items=known, num_threads=1)


if __name__ == "__main__":
    main()
