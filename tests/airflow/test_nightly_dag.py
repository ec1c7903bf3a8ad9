"""The DAG in the real Airflow of .venv-airflow: structure, a whole night, a step that fails."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable, Mapping
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from recsys import schemas
from recsys.config import load_settings
from recsys.lake.publish import live, live_lists
from recsys.lake.tables import Lake
from recsys.steps import SUMMARIES

# Eight spark-submits take two minutes on a quiet machine, many more on a busy one.
pytestmark = [pytest.mark.airflow, pytest.mark.timeout(1500)]

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venv-airflow/bin"
NIGHT = date(2026, 1, 4)
# The interval that ends here is the last complete one, as in a scheduled run: it began on NIGHT.
LOGICAL_DATE = "2026-01-05T04:00"
TINY = ["generate.events=3000", "generate.users=60", "generate.items=80", "generate.days=4"]
FAST = (
    "train.max_epochs=1 model.dims=16 evaluate.als.rank=8 evaluate.als.iterations=2 "
    "evaluate.bootstrap_samples=20 score.n=10"
)

Airflow = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    """Runs a program of .venv-airflow with an Airflow home of its own; output is one text."""
    if not (BIN / "airflow").exists():
        pytest.skip(".venv-airflow is not there; run `make airflow-setup`")
    home = tmp_path_factory.mktemp("airflow")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "RECSYS_"))}
    # The pytest process may have a Spark session; the jobs start their own.
    clean = {k: v for k, v in clean.items() if not k.startswith(("PYSPARK_", "SPARK_"))}
    base = {
        **clean,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "airflow_dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "RECSYS_PSEUDONYM_KEY": os.environ["RECSYS_PSEUDONYM_KEY"],
        "SPARK_SUBMIT_OPTS": os.environ["SPARK_SUBMIT_OPTS"],
        "COLUMNS": "200",
    }

    def call(
        *command: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        program = [str(BIN / command[0]), *command[1:]]
        return subprocess.run(
            program,
            cwd=home,
            env={**base, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1400,
        )

    made = call("airflow", "db", "migrate")
    assert made.returncode == 0, made.stdout
    return call


@pytest.fixture(scope="module")
def logs(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four days of generated logs; the folder's name has a space."""
    from recsys.generate import generate_log

    folder = tmp_path_factory.mktemp("input") / "raw logs"
    generate_log(spark, load_settings(None, TINY).generate, str(folder), NIGHT)
    return folder


@pytest.fixture(scope="module")
def described(airflow: Airflow) -> dict[str, Any]:
    env = {"RECSYS_LAKE": "/a lake's", "RECSYS_OVERRIDES": "train.hosts='a:1, b:1' train.ranks=2"}
    script = Path(__file__).with_name("describe_dag.py")
    run = airflow("python", str(script), str(ROOT / "airflow_dags"), env=env)
    lines = [line for line in run.stdout.splitlines() if line.startswith("DAG ")]
    assert lines, run.stdout
    return json.loads(lines[0].removeprefix("DAG "))


def test_dag_imports_without_errors_and_without_recsys(described: dict[str, Any]) -> None:
    assert described["errors"] == {}
    assert not described["imports_recsys"]


def test_steps_stand_in_the_order_of_the_night(described: dict[str, Any]) -> None:
    names = list(SUMMARIES)
    followers = {name: task["downstream"] for name, task in described["tasks"].items()}
    expected = {name: [after] for name, after in pairwise(names)}
    assert followers == {**expected, names[-1]: []}


def test_schedule_is_daily_with_intervals_and_one_night_at_a_time(
    described: dict[str, Any],
) -> None:
    assert described["timetable"] == "CronDataIntervalTimetable"
    assert described["cron"] == "0 4 * * *"
    assert described["max_active_runs"] == 1
    assert described["catchup"] is False
    assert described["has_doc"]
    assert "recsys" in described["tags"]


def test_every_step_retries_after_a_delay_and_times_out(described: dict[str, Any]) -> None:
    for name, task in described["tasks"].items():
        assert task["retries"] == 2, name
        assert task["retry_delay_seconds"] == 300, name
        assert 900 <= task["timeout_seconds"] <= 6 * 3600, name
        assert task["depends_on_past"] is False, name


def test_command_survives_spaces_and_quotes(described: dict[str, Any]) -> None:
    words = shlex.split(described["command"])
    assert words[0] == str(ROOT / ".venv/bin/spark-submit")
    after = words[words.index("jobs/train.py") :]
    assert after == [
        "jobs/train.py", "--date", "2026-01-02", "--lake", "/a lake's",
        "train.hosts=a:1, b:1", "train.ranks=2",
    ]  # fmt: skip


def test_housekeeping_runs_its_job_with_the_same_settings(described: dict[str, Any]) -> None:
    words = shlex.split(described["housekeeping"])
    assert words[words.index("jobs/housekeeping.py") :] == [
        "jobs/housekeeping.py", "--lake", "/a lake's", "train.hosts=a:1, b:1", "train.ranks=2",
    ]  # fmt: skip


def test_mistakes_of_deployment_are_explained(described: dict[str, Any]) -> None:
    assert "set recsys_home" in described["wrong_home"].lower()
    assert "parameter date" in described["no_night"]
    assert described["wrong_home"].startswith("AirflowFailException")  # no retries


def test_backfill_lists_the_nights_between_two_dates(airflow: Airflow) -> None:
    airflow("airflow", "dags", "reserialize")
    run = airflow(
        "airflow", "backfill", "create", "--dag-id", "recsys_nightly", "--max-active-runs", "1",
        "--from-date", "2026-01-01", "--to-date", "2026-01-03T04:00", "--dry-run",
    )  # fmt: skip
    assert run.returncode == 0, run.stdout
    rows = [line[2:12] for line in run.stdout.splitlines() if line.startswith("| 20")]
    assert rows == ["2026-01-01", "2026-01-02", "2026-01-03"]


def test_a_night_publishes_a_list_for_every_user(
    airflow: Airflow, logs: Path, spark: Any, tmp_path: Path
) -> None:
    root = tmp_path / "lake"
    env = {
        "RECSYS_LAKE": str(root),
        "RECSYS_INPUT": str(logs),
        "RECSYS_FORMAT": "generated",
        "RECSYS_OVERRIDES": FAST,
        "RECSYS_RETRIES": "0",
    }
    run = airflow("airflow", "dags", "test", "recsys_nightly", LOGICAL_DATE, env=env)
    assert run.returncode == 0, run.stdout[-6000:]
    lake = Lake(spark, load_settings(None, [f"lake.root={root}"]))
    users = lake.read(schemas.SILVER_USERS).count()
    lists = live_lists(lake)
    assert live(lake).run_date == NIGHT, run.stdout[-6000:]
    assert users > 30
    assert lists.select(schemas.USER_ID).distinct().count() == lists.count() == users
    assert {len(row[schemas.RECOMMENDATIONS]) for row in lists.collect()} == {10}


@pytest.mark.long
def test_a_failed_step_says_why_and_publishes_nothing(airflow: Airflow, tmp_path: Path) -> None:
    missing = tmp_path / "no logs"
    env = {
        "RECSYS_LAKE": str(tmp_path / "lake"),
        "RECSYS_INPUT": str(missing),
        "RECSYS_FORMAT": "generated",
        "RECSYS_RETRIES": "0",
    }
    run = airflow("airflow", "dags", "test", "recsys_nightly", "2026-01-06T04:00", env=env)
    assert run.returncode == 1
    assert "error: the input path does not exist" in run.stdout, run.stdout[-4000:]
    assert f"where: {missing}" in run.stdout
    # The run failed, and no other step was begun.
    assert "state=failed, run_type=manual, data_interval_start=2026-01-05" in run.stdout
    assert "jobs/build_silver.py" not in run.stdout
    assert not (tmp_path / "lake" / schemas.OPS_PUBLISHED.name).exists()
