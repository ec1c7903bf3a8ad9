"""A night's ETL, raw log to gold, beside bare Spark doing only the same reads, shuffles and writes.

    python -m benchmarks.etl [--events 1000000] [--runs 3]

Each run is a process of its own. `cold` counts from the first use of a new session (compilation of
queries included), `warm` is the same night into another lake in the same session.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine

DAY = date(2026, 1, 3)
KINDS = ("cold", "warm", "bare")


def measure(log: str, folder: Path) -> dict[str, float]:
    """Events a second of one process: our night cold and warm, and bare Spark (warm)."""
    from recsys.config import load_settings
    from recsys.lake.formats import load_format
    from recsys.lake.session import build_session
    from recsys.lake.tables import Lake
    from recsys.steps.context import Context
    from recsys.steps.etl import BUILD_GOLD, BUILD_SILVER, INGEST
    from recsys.steps.runner import run_night

    def settings_for(name: str) -> Any:
        return load_settings(None, [f"lake.root={folder / name}", f"input.path={log}"])

    spark = build_session(settings_for("cold"), "benchmark etl")
    spark.range(1).count()
    found = {}
    for kind in ("cold", "warm"):
        settings = settings_for(kind)
        quiet = Context(
            settings, load_format("generated"), DAY, Lake(spark, settings), say=lambda _: None
        )
        started = time.monotonic()
        runs = run_night(quiet, (INGEST, BUILD_SILVER, BUILD_GOLD))
        found[kind] = runs["ingest"].rows_in / (time.monotonic() - started)
        found |= {f"{kind} {name} seconds": run.seconds for name, run in runs.items()}
    started = time.monotonic()
    rows = bare_spark(spark, log, folder / "bare")
    found["bare"] = rows / (time.monotonic() - started)
    return found


def bare_spark(spark: Any, log: str, folder: Path) -> int:
    """The least such a night does: text to Delta, parsed and deduplicated to Delta, grouped."""
    from pyspark.sql import functions as F

    def save(frame: Any, name: str) -> Any:
        frame.write.format("delta").save(str(folder / name))
        return spark.read.format("delta").load(str(folder / name))

    raw = save(spark.read.text(f"{log}/dt=*/*.json.gz"), "raw")
    fields = "user string, item string, type string, ts timestamp, rating float, value double"
    parsed = raw.select(F.from_json("value", fields).alias("e")).select("e.*")
    events = save(parsed.dropDuplicates(["user", "item", "type", "ts"]), "events")
    history = F.sort_array(F.collect_list(F.struct("ts", "item", "type")))
    save(events.groupBy("user").agg(history.alias("history")), "sequences")
    return int(raw.count())


def main() -> None:
    """Generate the log once, run the processes, print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("LOG", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], Path(options.one[1]))))
        return
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as folder:
        log = f"{folder}/log"
        sizes = [f"generate.{n}={getattr(options, n)}" for n in ("events", "users", "items")]
        recsys = [sys.executable, "-m", "recsys.cli.main"]
        subprocess.run([*recsys, "generate", "--out", log, *sizes], check=True)
        runs = [_run(log, f"{folder}/{i}") for i in range(options.runs)]
    _report(options, runs)


def _run(log: str, folder: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.etl", "--one", log, folder]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _report(options: argparse.Namespace, runs: list[dict[str, float]]) -> None:
    print(f"ETL of {options.events:,} events, {options.users:,} users, {options.items:,} items")
    for kind in KINDS:
        rates = sorted(run[kind] for run in runs)
        middle, share = (
            statistics.median(rates),
            statistics.median(r[kind] / r["bare"] for r in runs),
        )
        print(
            f"  {kind:<5} {rates[0]:>9,.0f} {middle:>9,.0f} {rates[-1]:>9,.0f} events/s "
            f"(min, median, max), {share:.2f} of bare Spark"
        )
    print(json.dumps({"benchmark": "etl", "machine": describe_machine(), "runs": runs}))


if __name__ == "__main__":
    main()
