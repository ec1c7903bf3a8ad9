"""User-item pairs ranked a processor second: the scoring job, its kernel, others that rank exactly.

    make peers-setup
    python -m benchmarks.top_n [--runs 3] [--growth]

Vectors of 64 dims from a normal distribution, lists of 100, 50 seen items a user, by turns, in one
thread each (Spark: two). Processor seconds of a process and all below it are counted, so that other
work on the machine disturbs little. `product` is the bare matrix product, the limit; `kernel` is
ranking.exact_top_n with the seen items out; `job` is the Spark job's scoring stage on cached users:
an encoder of one block over 20 events, ranking, and the files that the workers write; `als` is
Spark ALS's recommendForAllUsers (on 50,000 items, no filter); faiss has no filter, implicit has
one. `--growth` shows seconds and memory of the kernel by users and items instead. Where OpenBLAS
guesses the processor wrong, start with OPENBLAS_CORETYPE.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.processes import measure_alone, processor_seconds

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / ".venv-peers/bin/python"
DIMS, N, SEEN, LENGTH, REPEATS = 64, 100, 50, 20, 2
USERS = {50_000: 2048, 500_000: 2048}  # faiss takes small batches many times slower
JOB_USERS = {50_000: 480_000, 500_000: 120_000}  # enough that starting tasks does not count
ALS_USERS, ALS_ITEMS = 12_000, 50_000  # with a few users its start counts more than its lists
OURS = ("product-float32", "product-bfloat16", "product-int8", "kernel", "job")
PEERS = ("faiss", "implicit")
GROWTH = (1, 3, 10)


def main() -> None:
    """Measure by turns and print rates, and how many times faiss and ALS they are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peer", default=str(PEER), help="Python that has faiss and implicit")
    parser.add_argument("--names", nargs="+", default=["als", *PEERS, *OURS], help="only these")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--one", nargs=3, metavar=("NAME", "ITEMS", "USERS"))
    options = parser.parse_args()
    if options.one:
        name, items, users = options.one
        seconds = ONE[name.partition("-")[0]](name, int(items), int(users))
        print(json.dumps({"seconds": seconds}))
    elif options.growth:
        measure_growth()
    else:
        compare(options.runs, options.peer, options.names)


def compare(runs: int, peer: str, names: Sequence[str]) -> None:
    """All sizes and all ways, by turns."""
    als: list[float] = []
    found: dict[int, dict[str, list[float]]] = {items: {} for items in USERS}
    for _ in range(runs):
        if "als" in names:
            als.append(measure("als", ALS_ITEMS, ALS_USERS))
        for items, users in USERS.items():
            for name in (name for name in (*PEERS, *OURS) if name in names):
                if name in PEERS:
                    rate = measure_peer(peer, name, items, users)
                else:
                    rate = measure(name, items, JOB_USERS[items] if name == "job" else users)
                found[items].setdefault(name, []).append(rate)
    report(found, als)
    record = {"benchmark": "top_n", "machine": describe_machine(), "als": als, "runs": found}
    print(json.dumps(record))


def report(found: dict[int, dict[str, list[float]]], als: list[float]) -> None:
    """Medians, and how many times faiss and Spark ALS they are, run by run."""
    if als:
        print(f"{ALS_ITEMS:>8,} items  als {statistics.median(als) / 1e6:,.1f} M/s")
    for items, rates in found.items():
        for name, values in rates.items():
            line = f"{items:>8,} items  {name:<17} {statistics.median(values) / 1e6:>8,.0f} M/s"
            for other, theirs in (("faiss", rates.get("faiss")), ("als", als)):
                if theirs:
                    ratios = sorted(a / b for a, b in zip(values, theirs, strict=True))
                    line += f"  {statistics.median(ratios):7.2f} times {other}"
                    line += f" ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            print(line)


def measure(name: str, items: int, users: int) -> float:
    """Pairs a processor second, in a process of its own."""
    figures = measure_alone("benchmarks.top_n", name, str(items), str(users))
    return say(name, items, items * users / float(figures["seconds"]))


def measure_peer(python: str, name: str, items: int, users: int) -> float:
    """Pairs a processor second of another library, in its own environment."""
    given = {"items": items, "users": users, "dims": DIMS, "n": N, "seen": SEEN,
             "repeats": REPEATS}  # fmt: skip
    command = [python, str(ROOT / "benchmarks/peers/exact_top_n.py"), name]
    for key, value in given.items():
        command += [f"--{key}", str(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return say(
        name, items, items * users / min(json.loads(done.stdout.splitlines()[-1])["seconds"])
    )


def say(name: str, items: int, rate: float) -> float:
    """Show a figure as soon as it is there."""
    print(f"  {name} {items:,}: {rate / 1e6:,.1f}", file=sys.stderr, flush=True)
    return rate


def measure_growth() -> None:
    """Seconds and peak memory of the kernel, by users and by items."""
    for what in ("users", "items"):
        first = None
        for times in GROWTH:
            users, items = (512 * times, 50_000) if what == "users" else (256, 50_000 * times)
            figures = measure_alone("benchmarks.top_n", "kernel", str(items), str(users))
            first = first or figures["seconds"]
            print(
                f"{users:>7,} users × {items:>8,} items  {figures['seconds']:7.2f} s "
                f"({figures['seconds'] / first:5.2f} times), "
                f"peak {figures['peak_bytes'] / 2**20:,.0f} MiB"
            )
    print(json.dumps({"benchmark": "top_n --growth", "machine": describe_machine()}))


def best_of(work: Callable[[], object]) -> float:
    """Processor seconds of the cheapest of some repeats, after one to warm up."""
    work()
    found = []
    for _ in range(REPEATS):
        before = processor_seconds(os.getpid())
        work()
        found.append(processor_seconds(os.getpid()) - before)
    return min(found)


def time_product(name: str, items: int, users: int) -> float:
    """Scores alone, in blocks that stay in the cache, into one buffer."""
    import torch

    torch.set_num_threads(1)
    kind = getattr(torch, name.partition("-")[2])
    block, some = 2048, 256
    first = torch.randn(some, DIMS).mul(30.0).clamp(-127.0, 127.0).to(kind)
    second = torch.randn(DIMS, block).mul(30.0).clamp(-127.0, 127.0).to(kind)
    out = torch.empty(some, block, dtype=torch.int32 if kind == torch.int8 else kind)
    multiply = torch._int_mm if kind == torch.int8 else torch.mm

    def work() -> None:
        for _ in range(often * items * users // (block * some)):
            multiply(first, second, out=out)

    # Long enough for a clock that ticks a hundred times a second.
    often = 20
    return best_of(work) / often


def time_kernel(name: str, items: int, users: int) -> float:
    """Lists from vectors."""
    import numpy as np
    import torch

    from recsys.ranking.exact_top_n import rank_products
    from recsys.ranking.item_index import build_index

    torch.set_num_threads(1)
    dice = np.random.default_rng(1)
    vectors = torch.from_numpy(dice.standard_normal((items + 1, DIMS), dtype=np.float32))
    index = build_index(vectors, torch.ones(items + 1, dtype=torch.bool))
    given = torch.from_numpy(dice.standard_normal((users, DIMS), dtype=np.float32))
    seen = list(dice.integers(1, items + 1, (users, SEEN)))
    return best_of(lambda: rank_products(given, index, N, seen))


def time_job(name: str, items: int, users: int) -> float:
    """The job's scoring stage: users are cached, lists go into files."""
    import numpy as np
    import pyarrow as pa
    from pyspark.sql import functions as F

    from recsys import schemas
    from recsys.bundle import BundleInfo, save_bundle
    from recsys.models import SequenceTransformer, TransformerConfig
    from recsys.score.pack import write_pack
    from recsys.score.workers import Scorer, files_of_lists, write_in_workers

    def draw(count: int, salt: int) -> Any:
        cells = [F.lit(salt + at) for at in range(count)]
        return F.array(*[F.abs(F.hash("id", cell)) % items + 1 for cell in cells]).cast(
            "array<int>"
        )

    spark = start_spark()
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as folder:
        model = SequenceTransformer(
            TransformerConfig(items, LENGTH, dims=DIMS, blocks=1, heads=1, dropout=0.0)
        )
        save_bundle(Path(folder) / "bundle", model, BundleInfo("2026-01-01", "b", items, LENGTH))
        ids = pa.array([f"item{at}" for at in range(items + 1)])
        write_pack(
            Path(folder) / "pack.tar", Path(folder) / "bundle", ids,
            np.ones(items + 1, dtype=np.float32),
        )  # fmt: skip
        spark.sparkContext.addFile(f"{folder}/pack.tar")
        table = (
            spark.range(users, numPartitions=4)
            .select(
                F.concat(F.lit("u"), "id").alias(schemas.USER_ID),
                draw(LENGTH, 0).alias(schemas.ITEMS),
                draw(SEEN, LENGTH).alias(schemas.SEEN_ITEMS),
            )
            .cache()
        )
        table.count()
        target = files_of_lists(f"file:{folder}/lists", {})
        files = write_in_workers(table, Scorer("pack.tar", N), target, "1")
        return best_of(files.collect)


def time_als(name: str, items: int, users: int) -> float:
    """recommendForAllUsers after a training of one round, which its cost does not depend on."""
    from pyspark.ml.recommendation import ALS
    from pyspark.sql import functions as F

    spark = start_spark()
    pairs = spark.range(items).select(
        (F.col("id") % users).cast("int").alias("user"),
        F.col("id").cast("int").alias("item"),
        F.lit(1.0).cast("float").alias("rating"),
    )
    model = ALS(rank=DIMS, maxIter=1, userCol="user", itemCol="item", seed=1).fit(pairs)
    lists = model.recommendForAllUsers(N)
    return best_of(lambda: lists.write.format("noop").mode("overwrite").save())


def start_spark() -> Any:
    """A session of two threads."""
    from recsys.config import load_settings
    from recsys.lake.session import build_session

    settings = ["lake.root=unused", "spark.master=local[2]"]
    return build_session(load_settings(None, settings), "benchmark")


ONE = {"product": time_product, "kernel": time_kernel, "job": time_job, "als": time_als}

if __name__ == "__main__":
    main()
