"""Fetch jars with all they need: fetch_jars.py FOLDER GROUP:NAME:VERSION... [-GROUP:NAME...]

A coordinate behind a minus is left out, with what only it needs. Spark's own resolver does it, so
that the user's Ivy and Maven settings hold.
"""

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pyspark.sql import SparkSession


def fetch(folder: Path, packages: Sequence[str], left_out: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as ivy:
        session = (
            SparkSession.builder.master("local[1]")
            .config("spark.jars.packages", ",".join(packages))
            .config("spark.jars.excludes", ",".join(left_out))
            .config("spark.jars.ivy", ivy)
            .config("spark.ui.enabled", "false")
            .getOrCreate()
        )
        session.stop()
        jars = sorted(Path(ivy, "jars").glob("*.jar"))
        if not jars:
            sys.exit(f"Ivy fetched no jar for {' '.join(packages)}")
        for jar in jars:
            # Ivy writes organisation_name-version.jar; Spark's own jars lack the organisation.
            shutil.copy(jar, folder / jar.name.split("_", 1)[1])


if __name__ == "__main__":
    named = sys.argv[2:]
    fetch(
        Path(sys.argv[1]),
        [name for name in named if not name.startswith("-")],
        [name.removeprefix("-") for name in named if name.startswith("-")],
    )
