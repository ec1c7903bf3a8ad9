"""Nights trained from chance beside nights that start from the champion of the night before.

    python -m benchmarks.warm_start [--nights 5] [--events 60000] [SECTION.KEY=VALUE ...]

One lake, one ETL a night; its tables are trained on and evaluated twice, as two registered models.
Before the nights that count, one night takes in the days of history. Nights are judged by NDCG@10
on the users of their own held-out day, with a bootstrap interval of 95%; the users of all nights
together give the interval of the difference, user by user. Seconds are of training alone,
validation included. "stale" is the model of the first night, not trained since.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from datetime import date, timedelta
from typing import Any

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.processes import generate_log

LAST = date(2026, 1, 3)
SMALL = (
    "spark.master=local[1]",
    "spark.shuffle_partitions=2",
    "train.launcher=single",
    "train.ranks=1",
    "gold.min_row_groups=8",
    # The baselines are not what is compared here.
    "evaluate.als.rank=4",
    "evaluate.als.iterations=1",
    "evaluate.min_history_events=1",
)
WAYS = {"full": "train.start_from=null", "warm": "train.start_from=champion"}


def run_nights(log: str, folder: str, nights: int, more: list[str]) -> list[dict[str, Any]]:
    """Figures of each night, the one that takes in the history first."""
    from recsys.config import load_settings
    from recsys.lake.formats import load_format
    from recsys.lake.session import build_session
    from recsys.lake.tables import Lake
    from recsys.steps.context import Context
    from recsys.steps.etl import BUILD_GOLD, BUILD_SILVER, INGEST
    from recsys.steps.evaluation import EVALUATE
    from recsys.steps.runner import run_night
    from recsys.steps.training import TRAIN

    given = [f"lake.root={folder}/lake", f"input.path={log}", *SMALL, *more]
    spark = build_session(load_settings(None, given), "benchmark warm start")
    found: list[dict[str, Any]] = []
    bundles: dict[str, str] = {}
    for back in reversed(range(nights + 1)):
        day = LAST - timedelta(days=back)
        night: dict[str, Any] = {"night": str(day)}
        # The warm one last: what it starts from is the last that was evaluated of a night.
        for name, start in WAYS.items():
            settings = load_settings(None, [*given, start, f"tracking.model_name={name}"])
            lake = Lake(spark, settings)
            context = Context(settings, load_format("generated"), day, lake)
            steps = (INGEST, BUILD_SILVER, BUILD_GOLD) if name == "full" else ()
            runs = run_night(context, (*steps, TRAIN, EVALUATE))
            night[name] = _describe(runs["train"].details, runs["evaluate"].details)
            bundles[name] = runs["train"].details["bundle"]
        bundles.setdefault("stale", bundles["full"])
        for name, figures in _judge(context, bundles).items():
            night[name] = {**night.get(name, {}), **figures}
        night["ratio"] = night["warm"]["seconds"] / night["full"]["seconds"]
        found.append(night)
    return found


def _describe(train: Any, evaluate: Any) -> dict[str, Any]:
    return {
        "start": train["start_from"],
        "seconds": float(train["seconds"]),
        "epochs": int(train["epochs"]),
        "best_epoch": int(train["best_epoch"]) + 1,
        "validation": float(train["validation_ndcg_at_10"]),
        "gate": evaluate["gate"],
    }


def _judge(context: Any, bundles: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Models on the held-out users of a night, ranked as `evaluate` does."""
    from recsys import schemas
    from recsys.bundle import load_for_scoring
    from recsys.lake.popularity import read_popularity
    from recsys.score import evaluation

    written, evaluate = context.done("build_gold").tables_written, context.settings.evaluate
    items = context.lake.read(schemas.SILVER_ITEMS).count()
    cases = evaluation.load_cases(context.lake, written[schemas.GOLD_HOLDOUT.name], evaluate)
    before = context.run_date - timedelta(days=context.settings.gold.holdout_days)
    stats = written[schemas.GOLD_ITEM_STATS.name]
    days = evaluate.popularity_days
    popularity = read_popularity(context.lake, stats, items, before, days)
    found = {}
    for name, bundle in bundles.items():
        model = load_for_scoring(bundle)
        report = evaluation.evaluate_model(name, model, cases, popularity, evaluate)
        found[name] = {
            "ndcg": report.means[evaluation.MAIN_METRIC],
            "low": report.interval.low,
            "high": report.interval.high,
            "users": report.per_user.tolist(),
        }
    return found


def _print(nights: list[dict[str, Any]]) -> None:
    print("night       |  full: s, epochs, NDCG@10          |  warm: s, epochs, NDCG@10", end="")
    print("          | ratio | stale")
    for night in nights:
        print(night["night"], end="")
        for name in WAYS:
            way = night[name]
            print(
                f"  | {way['seconds']:6.1f} {way['epochs']:3d}  {way['ndcg']:.4f} "
                f"({way['low']:.4f} to {way['high']:.4f})",
                end="",
            )
        print(f"  | {night['ratio']:.2f}  | {night['stale']['ndcg']:.4f}")
    counted = nights[1:]
    means = {
        name: statistics.mean(night[name]["ndcg"] for night in counted)
        for name in ("full", "warm", "stale")
    }
    seconds = [sum(night[name]["seconds"] for night in counted) for name in WAYS]
    print("mean NDCG@10 of the nights after the first:", end=" ")
    print(", ".join(f"{name} {value:.4f}" for name, value in means.items()))
    print(f"seconds: full {seconds[0]:.1f}, warm {seconds[1]:.1f}, {seconds[1] / seconds[0]:.2f}")
    for other in ("full", "stale"):
        difference = _compare(counted, "warm", other)
        print(f"NDCG@10 of warm less {other}, all users of these nights: {difference}")


def _compare(nights: list[dict[str, Any]], one: str, other: str) -> str:
    """Mean difference over the users of all nights, with its bootstrap interval."""
    from recsys.ranking.metrics import bootstrap_interval

    values = [np.concatenate([night[name]["users"] for night in nights]) for name in (one, other)]
    difference = values[0] - values[1]
    interval = bootstrap_interval(difference, 1000, seed=1)
    users = len(difference)
    return f"{difference.mean():+.4f} ({interval.low:+.4f} to {interval.high:+.4f}, {users} users)"


def main() -> None:
    """Generate the log, run the nights, print the table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=int, default=5)
    parser.add_argument("--days", type=int, default=25)
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--items", type=int, default=800)
    parser.add_argument("settings", nargs="*", help="section.key=value, for both ways")
    options = parser.parse_args()
    sizes = {name: getattr(options, name) for name in ("events", "days", "users", "items")}
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as folder:
        generate_log(f"{folder}/log", **sizes)
        nights = run_nights(f"{folder}/log", folder, options.nights, options.settings)
    _print(nights)
    for night in nights:
        for name in (*WAYS, "stale"):
            night[name]["users"] = len(night[name]["users"])
    print(json.dumps({"benchmark": "warm_start", "machine": describe_machine(), "nights": nights}))


if __name__ == "__main__":
    main()
