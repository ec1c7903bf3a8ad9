"""Run a small night and have Java keep the classes it loaded: archive_classes.py ARCHIVE FOLDER."""

import os
import sys
from pathlib import Path

from pyspark.sql import SparkSession

from recsys.cli.main import main

SMALL = (
    "generate.events=2000", "generate.users=60", "generate.items=50", "generate.days=3",
    "model.dims=8", "model.blocks=1", "train.launcher=single", "train.ranks=1",
    "train.max_epochs=1", "evaluate.als.rank=4", "evaluate.als.iterations=1",
    "evaluate.bootstrap_samples=10",
)  # fmt: skip


def run(*arguments: str) -> None:
    try:
        main([*arguments, *SMALL])
    except SystemExit as end:
        if end.code:
            raise


def archive_classes(archive: Path, folder: Path) -> None:
    os.environ["RECSYS_PSEUDONYM_KEY"] = "only for this small night"
    java = f"spark.java_options=-XX:+UseParallelGC -XX:ArchiveClassesAtExit={archive}"
    log, lake = str(folder / "log"), str(folder / "lake")
    run("generate", "--out", log, java)
    run("nightly", "--input", log, "--lake", lake, "--date", "2026-01-03", java)
    session = SparkSession.getActiveSession()
    assert session is not None, "the night has started one"
    gateway = session.sparkContext._gateway
    session.stop()
    # Java writes the archive when it ends, which it does when nobody holds its standard input.
    gateway.proc.stdin.close()
    gateway.proc.wait()


if __name__ == "__main__":
    archive_classes(Path(sys.argv[1]), Path(sys.argv[2]))
