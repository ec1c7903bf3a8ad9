"""Quality on published sequence sets: `recsys benchmark sequences` for several sets and seeds.

    python -m benchmarks.sequences FOLDER [--sets beauty toys] [--seeds 1 2 3] [section.key=value …]

FOLDER holds NAME.txt, and NAME.attributes.json where there are any. One recipe for all sets
(conf/benchmark.yaml); baselines are run with the first seed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Run each set with each seed; print a line a run, and a table of means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", default=["beauty", "toys", "yelp", "lastfm"])
    parser.add_argument("--seeds", nargs="+", default=["1", "2", "3"])
    parser.add_argument("--no-attributes", action="store_true")
    parser.add_argument("--no-baselines", action="store_true")
    given = [text for text in sys.argv[1:] if "=" in text]
    options = parser.parse_args([text for text in sys.argv[1:] if "=" not in text])
    print(json.dumps({"benchmark": "sequences", "machine": describe_machine(), "given": given}))
    results: dict[str, list[dict[str, Any]]] = {}
    for name in options.sets:
        for seed in options.seeds:
            baselines = seed == options.seeds[0] and not options.no_baselines
            extra = ["--baselines"] if baselines else []
            attributes = options.folder / f"{name}.attributes.json"
            if attributes.exists() and not options.no_attributes:
                extra += ["--attributes", str(attributes)]
            result = _run(options.folder / f"{name}.txt", "--seed", seed, *extra, *given)
            print(name, json.dumps(result), flush=True)
            results.setdefault(name, []).append(result)
    _report(results)


def _run(file: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "recsys.cli.main", "benchmark", "sequences", str(file)]
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return dict(json.loads(done.stdout))


def _report(results: dict[str, list[dict[str, Any]]]) -> None:
    print("| set | model | NDCG@10 | HR@10 | epochs | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, runs in results.items():
        for baseline, figures in runs[0].get("baselines", {}).items():
            test = figures["test"]
            print(
                f"| {name} | {baseline} | {test['ndcg_at_10']:.4f} | {test['hr_at_10']:.4f} | | |"
            )
        means = {
            metric: statistics.mean(run["test"][metric] for run in runs)
            for metric in ("ndcg_at_10", "hr_at_10")
        }
        seen = [run["test"]["ndcg_at_10"] for run in runs]
        epochs, seconds = ([run[key] for run in runs] for key in ("epochs", "seconds"))
        print(
            f"| {name} | **this project** | **{means['ndcg_at_10']:.4f}** "
            f"({min(seen):.4f} to {max(seen):.4f}) | **{means['hr_at_10']:.4f}** "
            f"| {statistics.median(epochs):.0f} | {statistics.median(seconds):.0f} |"
        )


if __name__ == "__main__":
    main()
