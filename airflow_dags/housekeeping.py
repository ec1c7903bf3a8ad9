"""Housekeeping, every week: old partitions deleted, small files compacted, old versions vacuumed.

One task, `spark-submit jobs/housekeeping.py`; it fails where `recsys lake doctor`, its last part,
finds something wrong, and its log says what to do. It may run beside a night: what a night reads
or writes stays, and a compaction that comes second gives way.

**Settings** are those of the nightly DAG (Airflow Variables or environment variables):
`RECSYS_HOME`, `RECSYS_SPARK_SUBMIT`, `RECSYS_CONF`, `RECSYS_LAKE`, `RECSYS_OVERRIDES`.
"""

from __future__ import annotations

import os
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, CronTriggerTimetable, Variable
from airflow.sdk.exceptions import AirflowFailException

CLONE = Path(__file__).resolve().parent.parent

# Spark's own log would bury the job's lines; a path in the clone, where the command runs.
QUIET = ("--driver-java-options", "-Dlog4j2.configurationFile=conf/log4j2.properties")


def setting(name: str, default: str = "") -> str:
    """A setting at the time the task runs: the Airflow Variable, else the environment."""
    return str(Variable.get(name, default="") or os.environ.get(name) or default)


def home() -> str:
    """The clone's folder."""
    return setting("RECSYS_HOME", str(CLONE))


def housekeeping_command() -> str:
    """The shell command, quoted, so that it can be copied from the task's log."""
    if not Path(home(), "jobs/housekeeping.py").is_file():
        # Fails without retries: no later try would find it either.
        raise AirflowFailException(
            f"{home()}/jobs/housekeeping.py does not exist. Set RECSYS_HOME (an Airflow Variable "
            "or an environment variable) to the clone, or link this DAG file instead of copying it."
        )
    default = shlex.join([f"{home()}/.venv/bin/spark-submit", *QUIET])
    command = [*shlex.split(setting("RECSYS_SPARK_SUBMIT", default)), "jobs/housekeeping.py"]
    for option in ("conf", "lake"):
        value = setting(f"RECSYS_{option.upper()}")
        if value:
            command += [f"--{option}", value]
    return shlex.join(command + shlex.split(setting("RECSYS_OVERRIDES")))


with DAG(
    "recsys_housekeeping",
    description="keeps the lake in shape",
    doc_md=__doc__,
    # Sundays at noon: long after the night, which starts at 04:00.
    schedule=CronTriggerTimetable("0 12 * * 0", timezone="UTC"),
    start_date=datetime(1995, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    tags=["recsys"],
    user_defined_macros={"home": home, "housekeeping_command": housekeeping_command},
) as dag:
    BashOperator(
        task_id="housekeeping",
        bash_command="{{ housekeeping_command() }}",
        cwd="{{ home() }}",
        retries=1,
        retry_delay=timedelta(minutes=30),
        execution_timeout=timedelta(hours=6),
        # Any exit code but 0 is a failure (Airflow would take 99 for a skipped task).
        skip_on_exit_code=None,
        do_xcom_push=False,
    )
