"""A night of whales: 1% of the users have half of the events, and one item has a tenth of them.

    python -m benchmarks.skew [--events 4000000] [--users 80000] [--runs 3]

Three bots above ``silver.max_user_events_per_day`` come on top. Spark cuts its shuffles as
conf/cluster.yaml has it, but into pieces so small that each has many tasks, as large nights do. Of
each stage with a task of a second or more the slowest task is compared with the median one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.processes import generate_log, measure_alone

DAY = date(2026, 1, 3)
BOTS = 3
LEAST_SECONDS = 1.0
SMALL = 200_000
SPARK = {
    "spark.sql.adaptive.coalescePartitions.parallelismFirst": "false",
    "spark.sql.adaptive.advisoryPartitionSizeInBytes": "8m",
    "spark.sql.files.maxPartitionBytes": "16m",
    "spark.ui.retainedStages": "5000",
}


def write_log(spark: Any, folder: str, events: int, users: int, bot_events: int) -> None:
    """One day of JSON lines; a hash of the line's number draws everything."""

    def draw(name: str, below: int) -> str:
        return f"pmod(xxhash64(id, '{name}'), {below})"

    whales = users // 100
    people = spark.range(events).selectExpr(
        "id",
        f"if({draw('whale', 2)} = 0, {draw('a', whales)}, {whales} + {draw('b', users - whales)}) "
        "as user",
    )
    bots = spark.range(events, events + BOTS * bot_events).selectExpr(
        "id", f"{users} + id % {BOTS} as user"
    )
    lines = people.union(bots).selectExpr(
        "to_json(named_struct('user', concat('u', user), "
        f"'item', if({draw('hot', 10)} = 0, 'hot', concat('i', {draw('item', 20_000)})), "
        "'type', 'view', 'ts', date_format(timestamp_millis("
        f"unix_millis(timestamp'{DAY} 00:00:00') + {draw('ms', 86_400_000)}), "
        "\"yyyy-MM-dd'T'HH:mm:ss.SSS'Z'\"))) as value"
    )
    lines.repartition(8).write.option("compression", "gzip").text(f"{folder}/dt={DAY}")
    for path in Path(folder, f"dt={DAY}").glob("part-*.txt.gz"):
        path.rename(path.with_suffix("").with_suffix(".json.gz"))


def measure(log: str, small: str, folder: Path) -> dict[str, Any]:
    """Seconds of the tasks of each stage, and what silver says."""
    from benchmarks.etl import our_night
    from benchmarks.spark_stages import stage_numbers, task_seconds
    from recsys import schemas
    from recsys.config import load_settings
    from recsys.lake.session import build_session
    from recsys.lake.tables import Lake

    def settings_for(name: str, source: str) -> Any:
        more = [f"lake.root={folder / name}", f"input.path={source}"]
        return load_settings(None, [*more, f"spark.extra={json.dumps(SPARK)}"])

    spark = build_session(settings_for("unused", log), "benchmark skew")
    for number in range(2):
        our_night(spark, settings_for(f"small-{number}", small))
    settings = settings_for("lake", log)
    known = stage_numbers(spark)
    our_night(spark, settings)
    aside = Lake(spark, settings).read(schemas.SILVER_SET_ASIDE)
    return {"stages": task_seconds(spark, known), "set aside": aside.count()}


def main() -> None:
    """Write the log, run the night, print the stages and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=4_000_000)
    parser.add_argument("--users", type=int, default=80_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        log, small, folder = options.one
        print(json.dumps(measure(log, small, Path(folder))))
        return
    from recsys.config import load_settings
    from recsys.lake.session import build_session

    settings = load_settings(None, ["lake.root=unused"])
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as folder:
        log, small = f"{folder}/log", f"{folder}/small"
        cap = settings.silver.max_user_events_per_day
        spark = build_session(settings, "benchmark skew")
        write_log(spark, log, options.events, options.users, 2 * cap)
        spark.stop()
        generate_log(small, events=SMALL, users=SMALL // 20, items=SMALL // 100)
        shutil.copy(f"{small}/items.tsv", log)  # a catalogue must be there
        runs = [
            measure_alone("benchmarks.skew", log, small, f"{folder}/{number}")
            for number in range(options.runs)
        ]
    worst = [_report(run) for run in runs]
    print(f"slowest task / median task, worst stage of each run: {sorted(worst)}")
    print(json.dumps({"benchmark": "skew", "machine": describe_machine(), "runs": runs}))


def _report(run: dict[str, Any]) -> float:
    print(f"{run['set aside']} users set aside; stages with a task of {LEAST_SECONDS} s or more:")
    worst = 0.0
    for name, seconds in run["stages"].items():
        if len(seconds) < 2 or seconds[-1] < LEAST_SECONDS:
            continue
        middle = statistics.median(seconds)
        worst = max(worst, round(seconds[-1] / middle, 2))
        print(
            f"  {len(seconds):>4} tasks, median {middle:>6.2f} s, slowest {seconds[-1]:>6.2f} s, "
            f"ratio {seconds[-1] / middle:>5.2f}  {name[:60]}"
        )
    return worst


if __name__ == "__main__":
    main()
