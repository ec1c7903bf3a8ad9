"""A night small enough for tests, whole enough to be a night."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import yaml

DATES = (date(2026, 1, 2), date(2026, 1, 3))

SETTINGS = {
    "spark": {"master": "local[2]", "shuffle_partitions": 2, "driver_memory": "1g"},
    "generate": {"events": 4000, "users": 80, "items": 60, "days": 4, "categories": 6},
    "gold": {"sequence_length": 16, "length_buckets": [4, 16], "min_row_groups": 8},
    "model": {
        "dims": 16,
        "blocks": 1,
        # All that a night can tell a model, so that each step hands it on.
        "time_gaps": True,
        "event_types": True,
        "attributes": True,
        "neighbor_weight": 1.0,
    },
    "train": {"max_epochs": 2, "per_rank_batch_size": 16},
    "evaluate": {"als": {"rank": 4, "iterations": 2}, "min_history_events": 1},
    "score": {"partitions": 2, "n": 10},
}


def write_small_log(spark: Any, folder: Path, *changes: str) -> Any:
    """A small log below ``folder``; settings of nights on it, in this process."""
    from recsys.config import load_settings
    from recsys.generate import generate_log

    conf = folder / "small.yaml"
    conf.write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    places = [f"lake.root={folder}/lake", f"input.path={folder}/log"]
    settings = load_settings(conf, [*changes, *places])
    generate_log(spark, settings.generate, settings.input.path, DATES[-1])
    return settings


class Nights:
    """A generated log, a lake, and the command that runs nights on them in its own process."""

    def __init__(self, folder: Path, spark: Any) -> None:
        from recsys.config import load_settings
        from recsys.generate import generate_log

        self.lake, self._spark = folder / "lake", spark
        conf, log = folder / "small.yaml", folder / "log"
        conf.write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
        generate_log(spark, load_settings(conf).generate, str(log), DATES[-1])
        self._options = ["--conf", str(conf), "--lake", str(self.lake), "--input", str(log)]

    def start(self, last: date, *arguments: str, step: str = "nightly") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "recsys.cli.main", step, "--date", str(last)]
        return subprocess.Popen(
            [*command, *self._options, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, last: date, *arguments: str, step: str = "nightly") -> str:
        process = self.start(last, *arguments, step=step)
        output, _ = process.communicate()
        assert process.returncode == 0, output
        return output

    def keep_a_copy(self) -> None:
        shutil.copytree(self.lake, self.lake.with_name("copy"))

    def go_back_to_the_copy(self) -> None:
        """In the same place: MLflow remembers paths."""
        shutil.rmtree(self.lake)
        shutil.copytree(self.lake.with_name("copy"), self.lake)
        forget_tables(self._spark)


def forget_tables(spark: Any) -> None:
    """As in a new process: Delta reads its logs again."""
    spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()


def read_as_users_do(spark: Any, root: Path) -> date:
    """The night whose lists are live, after a check that all of them are there and full."""
    from recsys import schemas
    from recsys.config import load_settings
    from recsys.lake.publish import live
    from recsys.lake.tables import Lake

    lake = Lake(spark, load_settings(None, [f"lake.root={root}"]))
    night = live(lake)
    rows = lake.read(schemas.GOLD_TOP_N, night.top_n_version).where(
        f"run_date = '{night.run_date}'"
    )
    lists = rows.select("user_id", "recommendations").collect()
    assert len({row[0] for row in lists}) == len(lists) == night.lists > 0
    assert {len(row[1]) for row in lists} == {SETTINGS["score"]["n"]}
    return night.run_date


def read_state(spark: Any, root: Path) -> dict[str, list[str]]:
    """All that readers can see, each row as JSON in a fixed order.

    Versions, times and seconds are left out: a night that was cut off needs more commits.
    """
    from recsys import schemas
    from recsys.config import load_settings
    from recsys.lake.publish import live_lists
    from recsys.lake.tables import Lake

    forget_tables(spark)
    lake = Lake(spark, load_settings(None, [f"lake.root={root}"]))
    left_out = {"top_n_version", "users_version", "items_version", "published_at", "table_version"}
    operations = (schemas.OPS_RUNS, schemas.OPS_LAKE)
    tables = [table for table in schemas.TABLES if table not in operations]
    frames = {table.name: lake.read(table) for table in tables}
    frames["live lists"] = live_lists(lake)
    return {
        name: sorted(
            json.dumps(json.loads(row), sort_keys=True)
            for row in frame.drop(*left_out).toJSON().collect()
        )
        for name, frame in frames.items()
    }
