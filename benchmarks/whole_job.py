"""How much of the scoring job is scoring: the whole job beside its ranking stage alone.

    python -m benchmarks.whole_job [--users 200000 1000000] [--items 50000] [--runs 1]

A lake of made-up users (20 events, 50 seen items each), an encoder of one block with 64 dims, lists
of 100. `whole` is a process of its own that starts Spark, reads the lake, encodes, ranks and
commits gold/top_n; `stage` ranks the same users from Spark's cache and writes the files that the
commit would name; `lists` ranks alone and drops the lists. Processor seconds of a process and all
below it are counted, so that other work disturbs little; the start of Spark and what fills the
cache count in `whole` alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from benchmarks.machine import describe_machine
from benchmarks.processes import measure_alone, processor_seconds
from benchmarks.top_n import DIMS, LENGTH, SEEN, N
from recsys import schemas
from recsys.bundle import BundleInfo, save_bundle
from recsys.config import load_settings
from recsys.lake.session import build_session
from recsys.lake.tables import Lake
from recsys.models import SequenceTransformer, TransformerConfig
from recsys.score.job import score_users
from recsys.score.pack import write_pack
from recsys.score.users import Versions
from recsys.score.workers import Scorer, files_of_lists, write_in_workers
from recsys.steps.lists import SCORE_USERS

NIGHT = date(2026, 1, 1)
SCORER = Scorer("pack.tar", N)


def main() -> None:
    """Measure by turns; print the share of the whole that the stage is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=[200_000, 1_000_000])
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--one", nargs=4, metavar=("NAME", "FOLDER", "USERS", "ITEMS"))
    options = parser.parse_args()
    if options.one:
        name, folder, users, items = options.one
        print(json.dumps(ONE[name](Path(folder), int(users), int(items))))
        return
    record: dict[str, Any] = {"benchmark": "whole_job", "machine": describe_machine()}
    for users in options.users:
        record[str(users)] = measure(users, options.items, options.runs)
    print(json.dumps(record))


def measure(users: int, items: int, runs: int) -> dict[str, list[float]]:
    """Processor seconds of both, run by run."""
    found: dict[str, list[float]] = {"whole": [], "stage": [], "lists": []}
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as folder:
        run = partial(measure_alone, "benchmarks.whole_job")
        run("make", folder, str(users), str(items))
        for _ in range(runs):
            for name, seconds in found.items():
                figures = run(name, folder, str(users), str(items))
                seconds.append(figures["seconds"])
                rate = users * items / figures["seconds"] / 1e6
                print(f"{users:,} users × {items:,} items  {name}: {figures['seconds']:,.1f} s, "
                      f"{rate:,.0f} M pairs/s, peak {figures['peak_bytes'] / 2**30:.1f} GiB",
                      file=sys.stderr, flush=True)  # fmt: skip
    for name in ("stage", "lists"):
        shares = [b / a for a, b in zip(found["whole"], found[name], strict=True)]
        print(f"{users:>9,} users × {items:,} items: {name} is {statistics.median(shares):.0%}")
    return found


def open_lake(folder: Path) -> Lake:
    """With a session of two threads."""
    given = [f"lake.root={folder}/lake", "spark.master=local[2]", f"score.n={N}"]
    settings = load_settings(None, given)
    return Lake(build_session(settings, "benchmark", SCORE_USERS.python_daemon), settings)


def make(folder: Path, users: int, items: int) -> dict[str, Any]:
    """Write the lake and the bundle."""
    lake = open_lake(folder)
    spark = lake.spark

    def draw(count: int, salt: int) -> Column:
        cells = [F.lit(salt + at) for at in range(count)]
        drawn = [F.abs(F.hash("id", cell)) % items + 1 for cell in cells]
        return F.array(*drawn).cast("array<int>")

    def write(table: schemas.Table, rows: DataFrame) -> int:
        names = [column.name for column in table.columns]
        chosen = [
            (F.col(c) if c in rows.columns else F.lit(None)).cast(column.type).alias(c)
            for c, column in zip(names, table.columns, strict=True)
        ]
        return lake.replace(table, rows.select(*chosen)).version

    people = spark.range(1, users + 1, numPartitions=8).select(
        "id", F.concat(F.lit("u"), "id").alias(schemas.USER_ID),
        F.col("id").alias(schemas.USER_IDX), F.lit(NIGHT).alias(schemas.FIRST_SEEN),
        F.lit(NIGHT).alias(schemas.INGEST_DATE), draw(LENGTH, 0).alias(schemas.ITEMS),
        draw(SEEN, LENGTH).alias(schemas.SEEN_ITEMS), F.lit(LENGTH).alias(schemas.LENGTH),
        F.lit(32).alias(schemas.BUCKET),
        F.array_repeat(F.lit(1), LENGTH).alias(schemas.EVENT_TYPES),
        F.array_repeat(F.lit(0), LENGTH).alias(schemas.EVENT_TIMES),
    )  # fmt: skip
    goods = spark.range(1, items + 1, numPartitions=2).select(
        F.concat(F.lit("item"), "id").alias(schemas.ITEM_ID), F.col("id").alias(schemas.ITEM_IDX),
        F.lit(NIGHT).alias(schemas.FIRST_SEEN), F.lit(NIGHT).alias(schemas.EVENT_DATE),
        F.lit(1).alias(schemas.EVENTS), F.lit(1).alias(schemas.USERS),
    )  # fmt: skip
    versions = [
        write(schemas.GOLD_SEQUENCES, people), write(schemas.SILVER_USERS, people),
        write(schemas.SILVER_ITEMS, goods), write(schemas.GOLD_ITEM_STATS, goods),
    ]  # fmt: skip
    config = TransformerConfig(items, LENGTH, dims=DIMS, blocks=1, heads=1, dropout=0.0)
    info = BundleInfo(str(NIGHT), "b", items, LENGTH)
    save_bundle(folder / "bundle", SequenceTransformer(config), info)
    (folder / "versions.json").write_text(json.dumps(versions))
    return {}


def run_whole(folder: Path, users: int, items: int) -> dict[str, float]:
    """From the start of the process to the commit."""
    lake = open_lake(folder)
    versions = Versions(*json.loads((folder / "versions.json").read_text()))
    commit = score_users(lake, folder / "bundle", "1", versions, NIGHT).commit
    assert commit.rows == users, commit
    return {"seconds": processor_seconds(os.getpid())}


def run_stage(folder: Path, users: int, items: int) -> dict[str, float]:
    """Ranking and files, after a run of some users that starts the workers."""
    target = files_of_lists(f"file:{folder}/stage", {})
    return _run_alone(
        folder, users, items, lambda some: write_in_workers(some, SCORER, target, "1")
    )


def run_lists(folder: Path, users: int, items: int) -> dict[str, float]:
    """Ranking alone."""

    def drop(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in SCORER(batches):
            pass
        yield from ()

    return _run_alone(folder, users, items, lambda some: some.mapInArrow(drop, "nothing int"))


def _run_alone(
    folder: Path, users: int, items: int, work: Callable[[DataFrame], DataFrame]
) -> dict[str, float]:
    """Processor seconds of ``work`` on cached users."""
    lake = open_lake(folder)
    write_pack(
        folder / "pack.tar", folder / "bundle", pa.array([f"item{at}" for at in range(items + 1)]),
        np.ones(items + 1, dtype=np.float32),
    )  # fmt: skip
    lake.spark.sparkContext.addFile(str(folder / "pack.tar"))
    table = lake.read(schemas.GOLD_SEQUENCES).select(
        schemas.USER_ID, schemas.ITEMS, schemas.SEEN_ITEMS
    )
    cached = table.repartition(8).cache()
    cached.count()

    def rank(some: DataFrame) -> None:
        work(some).write.format("noop").mode("overwrite").save()

    rank(cached.sample(min(1.0, 4000 / users), seed=1))
    before = processor_seconds(os.getpid())
    rank(cached)
    return {"seconds": processor_seconds(os.getpid()) - before}


ONE = {"make": make, "whole": run_whole, "stage": run_stage, "lists": run_lists}

if __name__ == "__main__":
    main()
