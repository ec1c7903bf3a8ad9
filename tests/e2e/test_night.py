"""Whole nights: what is published, what a re-run changes, what a kill at any stage leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.small_night import DATES, read_state, write_conf, write_log

# Whole nights in processes of their own: minutes on a busy machine, which is no failure.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

STAGES = ("ingest", "build_silver", "build_gold", "train", "evaluate", "score_users", "publish")
# Where a stage shows that it is in the middle of its work.
TRACES = {
    "ingest": "bronze/events/**/*.parquet",
    "build_silver": "silver/*/*",
    "build_gold": "gold/*/*",
    "train": "_checkpoints/*/*",
    "evaluate": "_mlflow/mlflow.db-journal",
    "score_users": "gold/top_n/**/*.parquet",
    "publish": "ops/published/*",
}


class Nights:
    """A log, a lake, and the command that runs nights on them in a process of its own."""

    def __init__(self, folder: Path, conf: Path, log: Path) -> None:
        self.lake = folder / "lake"
        self._options = ["--conf", str(conf), "--lake", str(self.lake), "--input", str(log)]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        nights = ["--date", str(DATES[-1]), "--nights", str(len(DATES))]
        command = [sys.executable, "-m", "recsys.cli.main", "nightly", *nights, *self._options]
        return subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *arguments: str) -> str:
        process = self.start(*arguments)
        output, _ = process.communicate()
        assert process.returncode == 0, output
        return output

    def kill_in(self, stage: str) -> None:
        """SIGKILL the process in ``stage`` of the last night, once the stage has left a trace."""
        process = self.start()
        before = STAGES[STAGES.index(stage) - 1] if stage != "ingest" else f"night of {DATES[-1]}"
        assert process.stdout is not None
        last_night = False
        for line in process.stdout:
            last_night = last_night or line.startswith(f"night of {DATES[-1]}")
            if last_night and line.strip().startswith(before):
                break
        known = self._traces(stage)
        while process.poll() is None and self._traces(stage) == known:
            continue
        process.kill()
        process.wait()
        process.stdout.close()

    def _traces(self, stage: str) -> set[tuple[Path, int]]:
        found = set()
        for path in self.lake.glob(TRACES[stage]):
            try:
                found.add((path, path.stat().st_mtime_ns))
            except FileNotFoundError:
                found.add((path, 0))
        return found


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_conf(tmp_path_factory.mktemp("conf"))


@pytest.fixture(scope="module")
def log(spark: Any, conf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("log") / "log"
    write_log(spark, conf, out)
    return out


@pytest.fixture(scope="module")
def undisturbed(conf: Path, log: Path, tmp_path_factory: pytest.TempPathFactory) -> Nights:
    nights = Nights(tmp_path_factory.mktemp("undisturbed"), conf, log)
    nights.run()
    return nights


def test_every_user_has_a_full_list(spark: Any, undisturbed: Nights) -> None:
    state = read_state(spark, undisturbed.lake)
    users = {json.loads(row)["user_id"] for row in state["silver/users"]}
    lists = [json.loads(row) for row in state["live lists"]]
    assert {row["user_id"] for row in lists} == users
    assert len(lists) == len(users) > 0
    assert {row["run_date"] for row in lists} == {str(DATES[-1])}
    assert {len(row["recommendations"]) for row in lists} == {10}


def test_running_again_changes_nothing(spark: Any, undisturbed: Nights) -> None:
    before = read_state(spark, undisturbed.lake)
    output = undisturbed.run()
    assert output.count("done before, nothing to do") == len(STAGES) * len(DATES)
    assert read_state(spark, undisturbed.lake) == before


def test_forcing_the_last_night_gives_the_same_lists(spark: Any, undisturbed: Nights) -> None:
    before = read_state(spark, undisturbed.lake)
    output = undisturbed.run("--force", "--nights", "1")
    assert "done before" not in output
    after = read_state(spark, undisturbed.lake)
    assert {name for name in before if before[name] != after[name]} == set()


@pytest.mark.stress
def test_killed_in_every_stage_ends_in_the_same_state(
    spark: Any, undisturbed: Nights, conf: Path, log: Path, tmp_path: Path
) -> None:
    wanted = read_state(spark, undisturbed.lake)
    nights = Nights(tmp_path, conf, log)
    for stage in STAGES:
        nights.kill_in(stage)
    nights.run()
    found = read_state(spark, nights.lake)
    assert {name for name in wanted if wanted[name] != found[name]} == set()
