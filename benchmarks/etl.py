"""A night's ETL, raw log to gold, beside bare Spark doing only the same reads, shuffles and writes.

    python -m benchmarks.etl [--events 1000000] [--runs 3]

Each run is two processes of their own, one for each. In both, `cold` is the first night of a new
session, the compilation of queries and of Java included; `warm` is the fourth, each into a lake of
its own. The session's start is not counted.
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
NIGHTS = 4
KINDS = {0: "cold", NIGHTS - 1: "warm"}


def measure(who: str, log: str, folder: Path) -> dict[str, float]:
    """Events a second of the first and of the last night of a session, and seconds a step."""
    from recsys.config import load_settings
    from recsys.lake.session import build_session

    def settings_for(name: str) -> Any:
        return load_settings(None, [f"lake.root={folder / name}", f"input.path={log}"])

    spark = build_session(settings_for("unused"), "benchmark etl")
    spark.range(1).count()
    found: dict[str, float] = {}
    for number in range(NIGHTS):
        started = time.monotonic()
        if who == "bare":
            rows, seconds = bare_spark(spark, log, folder / str(number)), {}
        else:
            rows, seconds = our_night(spark, settings_for(str(number)))
        rate = rows / (time.monotonic() - started)
        if kind := KINDS.get(number):
            found |= {kind: rate, **{f"{kind} {step}": s for step, s in seconds.items()}}
    return found


def our_night(spark: Any, settings: Any) -> tuple[int, dict[str, float]]:
    """Records read, and seconds a step."""
    from recsys.lake.formats import load_format
    from recsys.lake.tables import Lake
    from recsys.steps.context import Context
    from recsys.steps.etl import BUILD_GOLD, BUILD_SILVER, INGEST
    from recsys.steps.runner import run_night

    lake = Lake(spark, settings)
    quiet = Context(settings, load_format("generated"), DAY, lake, say=lambda _: None)
    runs = run_night(quiet, (INGEST, BUILD_SILVER, BUILD_GOLD))
    return runs["ingest"].rows_in, {name: run.seconds for name, run in runs.items()}


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
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        who, log, folder = options.one
        print(json.dumps(measure(who, log, Path(folder))))
        return
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as folder:
        log = f"{folder}/log"
        sizes = [f"generate.{n}={getattr(options, n)}" for n in ("events", "users", "items")]
        recsys = [sys.executable, "-m", "recsys.cli.main"]
        subprocess.run([*recsys, "generate", "--out", log, *sizes], check=True)
        runs = [
            {who: _run(who, log, f"{folder}/{who}-{number}") for who in ("recsys", "bare")}
            for number in range(options.runs)
        ]
    _report(options, runs)


def _run(who: str, log: str, folder: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.etl", "--one", who, log, folder]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _report(options: argparse.Namespace, runs: list[dict[str, dict[str, float]]]) -> None:
    print(f"ETL of {options.events:,} events, {options.users:,} users, {options.items:,} items")
    print("  events/s (min, median, max)")
    for kind in KINDS.values():
        for who in ("recsys", "bare"):
            rates = sorted(run[who][kind] for run in runs)
            middle = statistics.median(rates)
            print(f"  {kind} {who:<6} {rates[0]:>9,.0f} {middle:>9,.0f} {rates[-1]:>9,.0f}")
        share = statistics.median(run["recsys"][kind] / run["bare"][kind] for run in runs)
        print(f"  {kind} recsys / bare: {share:.2f}")
    print(json.dumps({"benchmark": "etl", "machine": describe_machine(), "runs": runs}))


if __name__ == "__main__":
    main()
