"""A night after many nights of history beside the same night on an empty lake.

    python -m benchmarks.incremental [--days 100] [--events-a-day 100000] [--runs 3]

The lake first takes in the days before in one night, then two nights that warm the session up; the
night that is measured follows. The empty lake is one of its own, in a session warmed by the same
two nights. Rows read are what Spark counts itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.processes import generate_log, measure_alone
from benchmarks.spark_stages import read_totals

LAST = date(2026, 1, 3)
WARM_UP = 2


def measure(who: str, log: str, folder: Path) -> dict[str, float]:
    """Seconds a stage, in all, and rows read of the last night."""
    from recsys.config import load_settings
    from recsys.lake.formats import load_format
    from recsys.lake.session import build_session
    from recsys.lake.tables import Lake
    from recsys.steps.context import Context
    from recsys.steps.etl import BUILD_GOLD, BUILD_SILVER, INGEST
    from recsys.steps.runner import run_night

    def settings_for(name: str, source: str) -> Any:
        return load_settings(None, [f"lake.root={folder / name}", f"input.path={source}"])

    spark = build_session(settings_for("unused", log), "benchmark incremental")
    found: dict[str, float] = {}
    alone = who == "empty"
    for back in reversed(range(WARM_UP + (1 if alone else 2))):
        day = LAST - timedelta(days=back)
        source = _only(log, day, folder) if alone else log
        settings = settings_for(str(day) if alone else "lake", source)
        before, started = read_totals(spark), time.monotonic()
        context = Context(
            settings, load_format("generated"), day, Lake(spark, settings), say=lambda _: None
        )
        runs = run_night(context, (INGEST, BUILD_SILVER, BUILD_GOLD))
        found = {name: run.seconds for name, run in runs.items()}
        found["seconds"] = time.monotonic() - started
        found["rows read"] = read_totals(spark).since(before)["records_read"]
        found["events"] = float(runs["build_silver"].rows_out)
    return found


def _only(log: str, day: date, folder: Path) -> str:
    """A log with that day alone."""
    alone = folder / f"log-{day}"
    alone.mkdir(parents=True)
    for name in (f"dt={day}", "items.tsv"):
        (alone / name).symlink_to(Path(log) / name)
    return str(alone)


def main() -> None:
    """Generate the log once, run the processes, print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=100)
    parser.add_argument("--events-a-day", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=20_000)
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
        generate_log(
            log,
            events=options.days * options.events_a_day,
            days=options.days,
            users=options.users,
            items=options.items,
        )
        runs = [
            {
                who: measure_alone("benchmarks.incremental", who, log, f"{folder}/{who}-{number}")
                for who in ("empty", "history")
            }
            for number in range(options.runs)
        ]
    print(f"the last night of {options.days} days, {options.events_a_day:,} events a day")
    for figure in ("ingest", "build_silver", "build_gold", "seconds", "rows read"):
        ratios = sorted(run["history"][figure] / run["empty"][figure] for run in runs)
        middle = statistics.median(run["empty"][figure] for run in runs)
        print(
            f"  {figure:<13} empty {middle:>12,.1f}   history / empty "
            f"{ratios[0]:.2f} {statistics.median(ratios):.2f} {ratios[-1]:.2f}"
        )
    print(json.dumps({"benchmark": "incremental", "machine": describe_machine(), "runs": runs}))


if __name__ == "__main__":
    main()
