"""What a layout of files is worth to the reads that matter: none, compacted, Z-order, clustering.

    python -m benchmarks.layout [--users 200000] [--events 1000000] [--lookups 15] [--runs 3]

Each table is written once in pieces, as nights write it, and then laid out in each way with files
of at most --file-mb. A read is repeated for --lookups users or dates that exist; of each run the
median counts. Bytes are what the file system was asked for, so pages that Parquet skips do not
count; files are those that Delta has opened.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine

PIECES = 16
DAYS = 10
SORTED = "spark.databricks.io.skipping.mdc.sortWithinFiles"
Read = Callable[[Any, random.Random], Any]


def lists(spark: Any, users: int) -> Any:
    """One night's lists of 20 items, spread by a hash, as scoring spreads them."""
    entry = (
        "struct(i as rank, concat('i', pmod(hash(id, i), 10000)) as item_id, "
        "float(rand(1)) as score, 'model' as reason)"
    )
    return spark.range(users).selectExpr(
        "date'2026-01-01' as run_date",
        "md5(string(id)) as user_id",
        "'1' as model_version",
        f"transform(sequence(1, 20), i -> {entry}) as recommendations",
    )


def ids(spark: Any, users: int) -> Any:
    return spark.range(users).selectExpr(
        "md5(string(id)) as user_id",
        "int(id + 1) as user_idx",
        "date'2026-01-01' as first_seen",
        "date'2026-01-01' as ingest_date",
    )


def events(spark: Any, users: int, count: int) -> Any:
    day = f"date_add(date'2026-01-01', int(pmod(hash(id, 3), {DAYS})))"
    return spark.range(count).selectExpr(
        "md5(string(id)) as event_id",
        f"md5(string(pmod(hash(id, 1), {users}))) as user_id",
        "concat('i', pmod(hash(id, 2), 10000)) as item_id",
        "'view' as event_type",
        "float(null) as rating",
        "double(null) as value",
        f"timestamp({day}) + make_interval(0, 0, 0, 0, 0, 0, pmod(hash(id, 4), 86400)) as event_ts",
        f"{day} as event_date",
        f"{day} as ingest_date",
    )


def some_user(options: argparse.Namespace) -> Callable[[random.Random], str]:
    return lambda dice: f"user_id = md5('{dice.randrange(options.users)}')"


def some_day(dice: random.Random) -> str:
    return f"event_date = '2026-01-{dice.randint(1, DAYS):02d}'"


def lay_out(lake: Any, table: Any, rows: Any, layout: str, file_mb: int) -> float:
    """Write the rows in pieces, then lay the table's files out: the seconds of that."""
    from delta.tables import DeltaTable

    filters = tuple(dict.fromkeys(["user_id", *table.filtered_by]))
    by_user = dataclasses.replace(table, filtered_by=filters)
    path = lake.path(table)
    session = lake.spark.newSession()
    if layout == "liquid clustering":
        key = ", ".join(dict.fromkeys([*table.partition_by, "user_id"]))
        session.sql(f"CREATE TABLE delta.`{path}` ({table.ddl}) USING delta CLUSTER BY ({key})")
    written = rows.repartition(PIECES, "user_id")
    lake.append(by_user if "order" in layout else table, written)
    session.conf.set("spark.databricks.delta.optimize.maxFileSize", str(file_mb << 20))
    session.conf.set("spark.databricks.delta.optimize.minFileSize", str(file_mb << 20))
    small = "spark.databricks.delta.optimize.clustering.mergeStrategy.minCubeSize.threshold"
    session.conf.set(small, str(1 << 20))
    session.conf.set(SORTED, str("sorted" in layout).lower())
    builder, started = DeltaTable.forPath(session, path).optimize(), time.monotonic()
    if "order" in layout:
        builder.executeZOrderBy("user_id")
    elif layout != "as written":
        builder.executeCompaction()
    return time.monotonic() - started


LAYOUTS = ("as written", "compacted", "Z-order", "Z-order, sorted", "liquid clustering")


def measure(lake: Any, table: Any, where: Callable[[random.Random], str], options: Any) -> Any:
    """Median seconds of a read in each run; median files and bytes."""
    bytes_read = lake.spark._jvm.org.apache.hadoop.fs.FileSystem.getGlobalStorageStatistics
    seconds, files, sizes = [], [], []
    for run in range(options.runs + 1):
        dice, taken = random.Random(run), []
        for _ in range(options.lookups):
            found = lake.read(table).where(where(dice))
            before, started = bytes_read().get("file").getLong("bytesRead"), time.monotonic()
            found.write.format("noop").mode("overwrite").save()
            taken.append(time.monotonic() - started)
            sizes.append(bytes_read().get("file").getLong("bytesRead") - before)
            files.append(len(found.inputFiles()))
        seconds.append(statistics.median(taken))
    # The first run warms the compiled queries up.
    return {
        "seconds": [round(s, 4) for s in seconds[1:]],
        "files": statistics.median(files),
        "bytes": statistics.median(sizes),
    }


def main() -> None:
    """Lay out, read, print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--file-mb", type=int, default=4)
    parser.add_argument("--lookups", type=int, default=15)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    from recsys import schemas
    from recsys.config import load_settings
    from recsys.lake.session import build_session
    from recsys.lake.tables import Lake

    user = some_user(options)
    spark = build_session(load_settings(None, ["lake.root=unused"]), "benchmark layout")
    cases = (
        (schemas.GOLD_TOP_N, lists(spark, options.users), {"one user's list": user}),
        (schemas.SILVER_USERS, ids(spark, options.users), {"one user's index": user}),
        (
            schemas.SILVER_EVENTS,
            events(spark, options.users, options.events),
            {"one day": some_day, "one user": user},
        ),
    )
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="recsys-layout-") as folder:
        for layout in LAYOUTS:
            place = Path(folder, layout.replace(" ", "_").replace(",", ""))
            lake = Lake(spark, load_settings(None, [f"lake.root={place}"]))
            for table, rows, reads in cases:
                laying = lay_out(lake, table, rows, layout, options.file_mb)
                for name, where in reads.items():
                    figures = measure(lake, table, where, options)
                    figures["layout_seconds"] = round(laying, 1)
                    found.setdefault(f"{table.name}: {name}", {})[layout] = figures
    _report(found)
    print(json.dumps({"benchmark": "layout", "machine": describe_machine(), "reads": found}))


def _report(found: dict[str, Any]) -> None:
    for read, layouts in found.items():
        print(read)
        base = statistics.median(layouts["compacted"]["seconds"])
        for layout, figures in layouts.items():
            middle = statistics.median(figures["seconds"])
            print(
                f"  {layout:<18} {figures['files']:>5.0f} files {figures['bytes'] / 1e6:>8.2f} MB "
                f"{middle * 1000:>7.0f} ms  {middle / base:.2f} of compacted, "
                f"laid out in {figures['layout_seconds']:.1f} s"
            )


if __name__ == "__main__":
    main()
