"""The sequence benchmark with one setting changed at a time: what the tables of variants share."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine

ROOT = Path(__file__).resolve().parent.parent


Results = dict[str, dict[str, Any]]
"""Label of a variant to what the benchmark printed of it."""


def main(
    name: str,
    about: str | None,
    base: Sequence[str],
    variants: Mapping[str, Sequence[str]],
    report: Callable[[Results], None],
) -> None:
    """What a module of variants does: run those that the command line names, print the table."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set", default="beauty")
    parser.add_argument("--only", nargs="+", choices=list(variants), default=list(variants))
    given = [text for text in sys.argv[1:] if "=" in text]
    options = parser.parse_args([text for text in sys.argv[1:] if "=" not in text])
    print(json.dumps({"benchmark": name, "machine": describe_machine(), "given": given}))
    chosen = {label: variants[label] for label in options.only}
    report(run_variants(options.folder, options.set, [*base, *given], chosen))


def run_variants(
    folder: Path, name: str, base: Sequence[str], variants: Mapping[str, Sequence[str]]
) -> Results:
    """``recsys benchmark sequences`` on a set, once a variant; each result is printed as it comes.

    Args:
        folder: holds NAME.txt, and NAME.attributes.json where there are any.
        name: of the set.
        base: overrides of all.
        variants: label to further overrides.
    """
    results = {}
    attributes = folder / f"{name}.attributes.json"
    extra = ["--attributes", str(attributes)] if attributes.exists() else []
    for label, overrides in variants.items():
        command = [sys.executable, "-m", "recsys.cli.main", "benchmark", "sequences"]
        command += [str(folder / f"{name}.txt"), *extra, *base, *overrides]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        results[label] = dict(json.loads(done.stdout))
        print(label, json.dumps(results[label]), flush=True)
    return results
