"""A night's ETL, raw log to gold, beside bare Spark doing only the same reads, shuffles and writes.

    python -m benchmarks.etl [--events 1000000 10000000 20000000] [--runs 1]

There is a user to 20 events and an item to 100. Each run of each size is two processes of their
own, one for each side, with the same session (``spark.driver_memory`` of conf/base.yaml). Both
first run nights on a small log, so that queries and Java are compiled (``--warm-up 0``: they are
not), then the one that is measured, into a lake of its own. What both read, shuffled and wrote is
what Spark counted; memory is that of the process and all below it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.processes import generate_log, measure_alone
from benchmarks.spark_stages import read_totals

DAY = date(2026, 1, 3)
STEPS = ("ingest", "build_silver", "build_gold")
WHO = ("recsys", "bare")
SMALL = 200_000
USER_EVENTS, ITEM_EVENTS = 20, 100


def measure(who: str, log: str, small: str, folder: Path, warm_up: int) -> dict[str, Any]:
    """Of the last night: records, seconds a step, and what Spark counted."""
    from recsys.config import load_settings
    from recsys.lake.session import build_session

    keep = "spark.extra={spark.ui.retainedStages: '5000'}"

    def settings_for(name: str, source: str) -> Any:
        return load_settings(None, [f"lake.root={folder / name}", f"input.path={source}", keep])

    spark = build_session(settings_for("unused", log), "benchmark etl")
    spark.range(1).count()
    run = bare_night if who == "bare" else our_night
    for number in range(warm_up):
        run(spark, settings_for(f"small-{number}", small))
    before = read_totals(spark)
    records, seconds = run(spark, settings_for("lake", log))
    counted = read_totals(spark).since(before)
    return {"records": records, "seconds": seconds, "counted": counted}


def our_night(spark: Any, settings: Any) -> tuple[int, dict[str, float]]:
    """Records read, and seconds a step."""
    from recsys.lake.formats import load_format
    from recsys.lake.tables import Lake
    from recsys.steps.context import Context
    from recsys.steps.etl import BUILD_GOLD, BUILD_SILVER, INGEST
    from recsys.steps.runner import run_night

    lake = Lake(spark, settings)
    quiet = Context(settings, load_format("generated"), DAY, lake, say=lambda _: None)
    started = time.monotonic()
    runs = run_night(quiet, (INGEST, BUILD_SILVER, BUILD_GOLD))
    seconds = {name: run.seconds for name, run in runs.items()}
    return runs["ingest"].rows_in, {**seconds, "all": time.monotonic() - started}


def bare_night(spark: Any, settings: Any) -> tuple[int, dict[str, float]]:
    """The same of bare Spark."""
    from benchmarks.bare_spark import BareSpark

    night = BareSpark(spark, settings.input.path, settings.lake.root, str(DAY))
    seconds = {}
    for name, step in night.steps().items():
        started = time.monotonic()
        step()
        seconds[name] = time.monotonic() - started
    return night.read("bronze/events").count(), {**seconds, "all": sum(seconds.values())}


def main() -> None:
    """Generate each log once, run the processes, print a table a size and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=3, help="nights on a small log before")
    parser.add_argument("--memory", type=float, help="GiB that each side may hold in all (as root)")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        who, log, small, folder, warm_up = options.one
        print(json.dumps(measure(who, log, small, Path(folder), int(warm_up))))
        return
    limit = None if options.memory is None else int(options.memory * 2**30)
    sizes: dict[int, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as folder:
        small = _generate(folder, SMALL)
        for events in options.events:
            log = _generate(folder, events)
            sizes[events] = []
            for number in range(options.runs):
                with tempfile.TemporaryDirectory(dir=folder) as lakes:
                    # By turns who is first: what else the machine does meets both.
                    order = WHO if number % 2 == 0 else WHO[::-1]
                    arguments = (log, small, lakes, str(options.warm_up))
                    run = {
                        who: measure_alone("benchmarks.etl", who, *arguments[:2],
                                           f"{lakes}/{who}", arguments[3], limit_bytes=limit)
                        for who in order
                    }  # fmt: skip
                sizes[events].append(run)
            _report(events, sizes[events])
    _report_growth(sizes)
    machine = describe_machine()
    print(json.dumps({"benchmark": "etl", "machine": machine, "warm_up": options.warm_up,
                      "memory_gib": options.memory, "sizes": sizes}))  # fmt: skip


def _generate(folder: str, events: int) -> str:
    log = f"{folder}/log-{events}"
    users, items = events // USER_EVENTS, events // ITEM_EVENTS
    generate_log(log, events=events, users=users, items=items)
    return log


def _rate(run: dict[str, Any], who: str, step: str) -> float:
    return float(run[who]["records"] / run[who]["seconds"][step])


def _report(events: int, runs: list[dict[str, Any]]) -> None:
    print(f"\n{events:,} events, {events // USER_EVENTS:,} users, {events // ITEM_EVENTS:,} items")
    print(f"  {'records/s (median)':<20} {'recsys':>9} {'bare':>9}   recsys / bare (min to max)")
    for step in (*STEPS, "all"):
        middle = {who: statistics.median(_rate(run, who, step) for run in runs) for who in WHO}
        shares = sorted(_rate(run, "recsys", step) / _rate(run, "bare", step) for run in runs)
        print(
            f"  {step:<20} {middle['recsys']:>9,.0f} {middle['bare']:>9,.0f}   "
            f"{statistics.median(shares):.2f} ({shares[0]:.2f} to {shares[-1]:.2f})"
        )
    last = runs[-1]
    for name in last["recsys"]["counted"]:
        unit, scale = ("", 1) if name.startswith("records") else (" MB", 1e6)
        counted = [last[who]["counted"][name] / scale for who in WHO]
        print(f"  {name.replace('_', ' '):<20} {counted[0]:>9,.0f} {counted[1]:>9,.0f}{unit}")
    peaks = [max(run[who]["peak_bytes"] for run in runs) / 2**30 for who in WHO]
    print(f"  {'peak memory':<20} {peaks[0]:>9.2f} {peaks[1]:>9.2f} GiB", flush=True)


def _report_growth(sizes: dict[int, list[dict[str, Any]]]) -> None:
    smallest = min(sizes)
    if len(sizes) == 1:
        return

    def seconds(events: int) -> float:
        return statistics.median(run["recsys"]["seconds"]["all"] for run in sizes[events])

    print("\ngrowth of recsys: times the events, times the seconds")
    for events in sorted(sizes):
        print(
            f"  {events:>11,} {events / smallest:>6.1f} {seconds(events) / seconds(smallest):>6.1f}"
        )


if __name__ == "__main__":
    main()
