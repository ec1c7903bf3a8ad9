"""Fetch Delta's jars for Spark: fetch_delta_jars.py VERSION FOLDER.

Spark's own resolver does it, so that the user's Ivy and Maven settings hold.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from pyspark.sql import SparkSession


def fetch(version: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as ivy:
        session = (
            SparkSession.builder.master("local[1]")
            .config("spark.jars.packages", f"io.delta:delta-spark_2.13:{version}")
            .config("spark.jars.ivy", ivy)
            .config("spark.ui.enabled", "false")
            .getOrCreate()
        )
        session.stop()
        jars = sorted(Path(ivy, "jars").glob("*.jar"))
        if not jars:
            sys.exit(f"Ivy fetched no jar for delta-spark_2.13 {version}")
        for jar in jars:
            # Ivy writes organisation_name-version.jar; Spark's own jars lack the organisation.
            shutil.copy(jar, folder / jar.name.split("_", 1)[1])


if __name__ == "__main__":
    fetch(sys.argv[1], Path(sys.argv[2]))
