"""The sequence benchmark with one setting changed at a time: what the tables of variants share."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def run_variants(
    folder: Path, name: str, base: Sequence[str], variants: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
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
