"""Approximate lists beside exact ones: what an index costs, what it misses, what it saves.

    python -m benchmarks.approximate [--items 100000 1000000] [--spreads 0.5 1.0]

Items and users of 64 dims lie around 1,000 centres, as far from them as `spread` times a centre
is from 0 (at 1 little structure is left); lists of 20, 50 seen items a user. The number of probes
is calibrated to a recall of 0.99 on 2,048 users, as a night does; recall and users a second are
then those of 1,024 other users. Processor seconds are counted, rates are of one thread, exact and
approximate lists in turn in one process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.machine import describe_machine
from recsys.ranking.approximate import build_clusters, clusters_bytes, use_threads
from recsys.ranking.exact_top_n import rank_products
from recsys.ranking.item_index import build_index
from recsys.ranking.recall import Queries, calibrate, measure_recall

DIMS, CENTRES, N, SEEN, TARGET = 64, 1000, 20, 50, 0.99
SAMPLED, OTHERS, AT_ONCE, TURNS = 2048, 1024, 512, 3


def main() -> None:
    """Measure every size and spread, a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--spreads", type=float, nargs="+", default=[0.5, 1.0])
    options = parser.parse_args()
    found = []
    for items in options.items:
        for spread in options.spreads:
            found.append(measure(items, spread))
            print(json.dumps(found[-1]), flush=True)
    print(json.dumps({"benchmark": "approximate", "machine": describe_machine(), "runs": found}))


def measure(items: int, spread: float) -> dict[str, Any]:
    """Figures of one catalogue."""
    vectors, users = draw(items, SAMPLED + OTHERS, spread)
    index = build_index(vectors, torch.ones(items + 1, dtype=torch.bool))
    dice = np.random.default_rng(2)
    seen = list(dice.integers(1, items + 1, (len(users), SEEN)))
    started, before = time.perf_counter(), time.process_time()
    clusters = build_clusters(index)
    build = time.perf_counter() - started, time.process_time() - before
    queries = [Queries(users[:SAMPLED], seen[:SAMPLED], None)]
    before = time.process_time()
    chosen, recall = calibrate(clusters, index, N, queries, TARGET)
    calibration = time.process_time() - before
    line = {
        "items": items,
        "spread": spread,
        "build_seconds": round(build[0], 1),
        "build_processor_seconds": round(build[1], 1),
        "calibration_processor_seconds": round(calibration, 1),
        "clusters": clusters.count,
        "mib": round(clusters_bytes(items, DIMS) / 2**20, 1),
        "sampled_recall": round(recall.mean, 4),
        "at_least": round(recall.low, 4),
    }
    if chosen is None:
        return {**line, "probes": None}
    threads = use_threads(1)  # first: torch's setting may be faiss's, too
    torch.set_num_threads(1)
    other = Queries(users[SAMPLED:], seen[SAMPLED:], None)
    ours: dict[str, list[float]] = {"exact": [], "approximate": []}
    exact = [rank_products(other.users, index, N, other.seen)]
    for _ in range(TURNS):
        ours["exact"].append(rate(other, lambda u, s: rank_products(u, index, N, s)))
        ours["approximate"].append(rate(other, lambda u, s: chosen.rank(u, index, N, s)))
    ratios = [a / b for a, b in zip(ours["approximate"], ours["exact"], strict=True)]
    use_threads(threads)
    torch.set_num_threads(threads)
    return {
        **line,
        "probes": chosen.probes,
        "recall": round(measure_recall(chosen, index, exact, [other]).mean, 4),
        **{f"{name}_users_a_second": round(statistics.median(v)) for name, v in ours.items()},
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(min(ratios), 2), round(max(ratios), 2)],
        "seconds_saved_per_million_users": round(
            1e6 / statistics.median(ours["exact"]) - 1e6 / statistics.median(ours["approximate"])
        ),
    }


def draw(items: int, users: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Items (row 0 is padding), whose lengths differ by a fifth, and users."""
    dice = np.random.default_rng(1)
    centres = dice.standard_normal((CENTRES, DIMS), dtype=np.float32)

    def around(count: int) -> Any:
        noise = dice.standard_normal((count, DIMS), dtype=np.float32)
        return centres[dice.integers(0, CENTRES, count)] + np.float32(spread) * noise

    lengths = dice.lognormal(0.0, 0.2, (items + 1, 1)).astype(np.float32)
    return torch.from_numpy(around(items + 1) * lengths), torch.from_numpy(around(users))


def rate(queries: Queries, rank: Callable[[torch.Tensor, Any], object]) -> float:
    """Users a processor second, in batches as a worker has them."""
    before = time.process_time()
    for at in range(0, len(queries.users), AT_ONCE):
        rank(queries.users[at : at + AT_ONCE], queries.seen[at : at + AT_ONCE])
    return len(queries.users) / (time.process_time() - before)


if __name__ == "__main__":
    main()
