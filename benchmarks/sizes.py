"""What docs/at-scale.md reckons with: bytes a row, and processor seconds and shuffled bytes a step.

    python -m benchmarks.sizes [--events-a-day 500000] [--users 50000] [--items 5000]

One lake takes in six days in one night, then a night that warms the session up; the night that is
measured follows. Events, users and items are in the proportion of the note. Seconds are the
processor's, of the JVM and of Python workers, so that another load on the machine adds little.
Scoring is by an untrained model of the default size: weights don't change what it costs.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.processes import generate_log, processor_seconds
from benchmarks.spark_stages import read_totals

LAST = date(2026, 1, 3)
DAYS = 8
RANKED = {10_000: 2048, 100_000: 512, 1_000_000: 128}
"""Items in the catalogue to users that are ranked."""


def measure(log: str, folder: Path) -> dict[str, Any]:
    """The tables before and after the last night, and what each of its steps took."""
    from recsys.config import load_settings
    from recsys.lake.session import build_session
    from recsys.lake.tables import Lake

    settings = load_settings(None, [f"lake.root={folder}/lake", f"input.path={log}"])
    lake = Lake(build_session(settings, "benchmark sizes"), settings)
    for back in (2, 1):
        run_steps(lake, LAST - timedelta(days=back), folder / f"bundle-{back}")
    before = measure_tables(lake)
    steps = run_steps(lake, LAST, folder / "bundle-0")
    return {"before": before, "tables": measure_tables(lake), "steps": steps}


def measure_tables(lake: Any) -> dict[str, dict[str, int]]:
    """Rows and bytes of each table's newest version."""
    from recsys import schemas

    tables = {}
    for table in schemas.TABLES:
        if lake.exists(table) and not table.name.startswith("ops/"):
            size = lake.delta(table).detail().first()["sizeInBytes"]
            tables[table.name] = {"rows": lake.read(table).count(), "bytes": size}
    return tables


def run_steps(lake: Any, day: date, bundle: Path) -> dict[str, dict[str, float]]:
    """Raw log to gold, and lists by an untrained model."""
    from recsys.lake.formats import load_format
    from recsys.steps.context import Context
    from recsys.steps.etl import BUILD_GOLD, BUILD_SILVER, INGEST
    from recsys.steps.runner import run_night

    context = Context(lake.settings, load_format("generated"), day, lake, say=lambda _: None)
    figures = {}
    for step in (INGEST, BUILD_SILVER, BUILD_GOLD):
        figures[step.name] = watch(lake.spark, lambda s=step: run_night(context, (s,)))
    figures["score_users"] = watch(lake.spark, lambda: score(context, bundle))
    return figures


def measure_ranking() -> dict[int, float]:
    """Processor milliseconds a user, by items in the catalogue: one thread, lists of 20."""
    import numpy as np
    import torch

    from recsys.config import load_settings
    from recsys.models import SequenceTransformer, TransformerConfig
    from recsys.ranking.histories import Histories
    from recsys.score.ranker import index_items, rank_histories

    torch.set_num_threads(1)
    settings, dice = load_settings(), np.random.default_rng(0)
    length, found = settings.gold.sequence_length, {}
    for items, users in RANKED.items():
        model = SequenceTransformer(
            TransformerConfig.from_settings(settings.model.model_dump(), items, length)
        ).eval()
        popularity = np.ones(items + 1, dtype=np.float32)
        histories = [dice.integers(1, items + 1, length) for _ in range(users)]
        index = index_items(model, popularity)  # as a pack has it
        rank = partial(rank_histories, model, popularity=popularity, n=20, index=index)
        rank(Histories(histories[:8]), histories[:8])  # warm
        started = time.process_time()
        rank(Histories(histories), histories)
        found[items] = 1000 * (time.process_time() - started) / users
    return found


def watch(spark: Any, work: Any) -> dict[str, float]:
    """Processor seconds and shuffled bytes of ``work``."""
    seconds, before = processor_seconds(os.getpid()), read_totals(spark)
    work()
    return {
        "processor_seconds": processor_seconds(os.getpid()) - seconds,
        "shuffled_bytes": read_totals(spark).since(before)["shuffled_bytes"],
    }


def score(context: Any, bundle: Path) -> None:
    """Lists for every user."""
    from recsys import schemas
    from recsys.bundle import BundleInfo, save_bundle
    from recsys.models import SequenceTransformer, TransformerConfig
    from recsys.score.job import score_users
    from recsys.score.users import Versions

    items = context.lake.read(schemas.SILVER_ITEMS).count()
    length = context.settings.gold.sequence_length
    model = SequenceTransformer(
        TransformerConfig.from_settings(context.settings.model.model_dump(), items, length)
    )
    save_bundle(bundle, model, BundleInfo(str(context.run_date), "untrained", items, length))
    versions = Versions(
        context.written("build_gold", schemas.GOLD_SEQUENCES),
        context.written("build_silver", schemas.SILVER_USERS),
        context.written("build_silver", schemas.SILVER_ITEMS),
        context.written("build_gold", schemas.GOLD_ITEM_STATS),
    )
    score_users(context.lake, bundle, "untrained", versions, context.run_date)


def main() -> None:
    """Generate the log, measure, print two tables and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events-a-day", type=int, default=500_000)
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--items", type=int, default=5_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as folder:
        log = f"{folder}/log"
        events = options.events_a_day * DAYS
        generate_log(log, events=events, days=DAYS, users=options.users, items=options.items)
        raw = sum(path.stat().st_size for path in Path(log).glob(f"dt={LAST}/*"))
        found = {**measure(log, Path(folder)), "ranking": measure_ranking()}
    report(options, raw, found)


def report(options: argparse.Namespace, raw: int, found: dict[str, Any]) -> None:
    print(
        f"{options.events_a_day:,} events a day, {options.users:,} users, {options.items:,} items"
    )
    night = found["tables"]["bronze/events"]["rows"] - found["before"]["bronze/events"]["rows"]
    print(f"  night of {night:,} records, {raw / night:.1f} bytes each in the raw log")
    for name, table in found["tables"].items():
        each, more = table["bytes"] / max(1, table["rows"]), table["rows"]
        more -= found["before"].get(name, {"rows": 0})["rows"]
        print(f"  {name:<24} {table['rows']:>10,} rows, {more:>+9,} {each:>8.1f} bytes a row")
    for name, step in found["steps"].items():
        seconds, shuffled = step["processor_seconds"], step["shuffled_bytes"]
        print(f"  {name:<24} {seconds:>8.1f} processor s {shuffled / 1e6:>8.1f} MB shuffled")
    for items, milliseconds in found["ranking"].items():
        print(f"  ranking {items:>9,} items {milliseconds:>8.2f} processor ms a user")
    print(json.dumps({"benchmark": "sizes", "machine": describe_machine(), "raw": raw, **found}))


if __name__ == "__main__":
    main()
