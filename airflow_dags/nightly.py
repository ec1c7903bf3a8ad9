"""The night, every day: raw logs in, published lists out.

The steps run one after another; each is `spark-submit jobs/STEP.py --date NIGHT`. The night
is the date on which the data interval starts: the run that begins on 3 January at 04:00 UTC makes
the night of 2 January, whose logs have had four hours to arrive.

**Settings** are Airflow Variables, or environment variables of the worker, read when a task runs:

| name | meaning | default |
| --- | --- | --- |
| `RECSYS_HOME` | the clone with `jobs/` | where this file lies (a symlink is followed) |
| `RECSYS_SPARK_SUBMIT` | e.g. `/opt/spark/bin/spark-submit --driver-memory 4g` | of the clone |
| `RECSYS_CONF` | `--conf`: file of settings | `conf/local.yaml` |
| `RECSYS_LAKE` | `--lake`: where the tables lie | `lake.root` |
| `RECSYS_INPUT` | `--input`: the raw logs | `input.path` |
| `RECSYS_FORMAT` | `--format`: what the logs look like | `input.format` |
| `RECSYS_OVERRIDES` | `section.key=value ...`, quoted as in a shell | |

**One night by hand**: trigger with the parameter `date`, or without a scheduler

    RECSYS_RETRIES=0 airflow dags test recsys_nightly -c '{"date": "2026-01-03"}'

**Many nights**: a backfill, one night at a time (Airflow's own limit for backfills is 10, whatever
the DAG says), and with the hour in `--to-date`, because a plain date means midnight, before that
day's interval has begun:

    airflow backfill create --dag-id recsys_nightly --max-active-runs 1 \\
        --from-date 2026-01-01 --to-date 2026-01-03T04:00

**A step that fails** is tried again; what was done is not repeated. After the last try the night
fails, the lists published before stay live, and the next night starts without waiting: it reads
the raw logs that no night has read yet. Clear the failed task to finish the night itself.
"""

from __future__ import annotations

import os
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, CronDataIntervalTimetable, Param, Variable
from airflow.sdk.exceptions import AirflowFailException

CLONE = Path(__file__).resolve().parent.parent

# Hours after which a step is stuck rather than slow: some ten times what a large lake needs.
HOURS = {
    "ingest": 1.0,
    "build_silver": 2.0,
    "build_gold": 2.0,
    "train": 6.0,
    "evaluate": 1.0,
    "score_users": 2.0,
    "publish": 0.25,
    "export": 2.0,  # does nothing where export.targets is empty
}

# Spark's own log would bury the step's lines; a path in the clone, where the command runs.
QUIET = ("--driver-java-options", "-Dlog4j2.configurationFile=conf/log4j2.properties")


def setting(name: str, default: str = "") -> str:
    """A setting at the time the task runs: the Airflow Variable, else the environment."""
    return str(Variable.get(name, default="") or os.environ.get(name) or default)


def home() -> str:
    """The clone's folder."""
    return setting("RECSYS_HOME", str(CLONE))


def spark_submit(step: str, night: str | None) -> str:
    """The shell command of a step, quoted, so that it can be copied from the task's log."""
    job = Path(home(), "jobs", f"{step}.py")
    if not job.is_file():
        # Fails without retries: no later try would find it either.
        raise AirflowFailException(
            f"{job} does not exist. Set RECSYS_HOME (an Airflow Variable or an environment "
            "variable) to the clone, or link this DAG file instead of copying it."
        )
    if not night:
        raise AirflowFailException(
            "this run has no data interval, so its night is not known. Trigger it with the "
            'parameter date, e.g. --conf \'{"date": "2026-01-03"}\''
        )
    default = shlex.join([f"{home()}/.venv/bin/spark-submit", *QUIET])
    command = [*shlex.split(setting("RECSYS_SPARK_SUBMIT", default)), f"jobs/{step}.py"]
    command += ["--date", night]
    for option in ("conf", "lake", "input", "format"):
        value = setting(f"RECSYS_{option.upper()}")
        if value:
            command += [f"--{option}", value]
    return shlex.join(command + shlex.split(setting("RECSYS_OVERRIDES")))


with DAG(
    "recsys_nightly",
    description="raw logs in, published top-N lists out",
    doc_md=__doc__,
    # A plain cron string has no data interval since Airflow 3, and the night is its start.
    schedule=CronDataIntervalTimetable("0 4 * * *", timezone="UTC"),
    # Early, because a backfill cannot reach behind it; catchup=False starts with the last night.
    start_date=datetime(1995, 1, 1, tzinfo=UTC),
    catchup=False,
    # Nights write the same tables and the champion: one after another.
    max_active_runs=1,
    # A stuck night must not hold the next one.
    dagrun_timeout=timedelta(hours=23),
    default_args={
        "owner": "recsys",
        # Not depends_on_past: the next night would wait as an active run, and with
        # max_active_runs=1 the failed one could not be cleared beside it.
        "depends_on_past": False,
        # 0 for `airflow dags test`, which sits out the delay before it says that a step failed.
        "retries": int(os.environ.get("RECSYS_RETRIES", "2")),
        "retry_delay": timedelta(minutes=5),
        "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=30),
    },
    params={
        "date": Param(
            None,
            type=["null", "string"],
            format="date",
            title="Night",
            description="the night to make; empty: the date on which the data interval starts",
        )
    },
    tags=["recsys", "nightly"],
    user_defined_macros={"home": home, "spark_submit": spark_submit},
) as dag:
    before: BashOperator | None = None
    for name, hours in HOURS.items():
        step = BashOperator(
            task_id=name,
            bash_command="{{ spark_submit(task.task_id, params.date or "
            "(data_interval_start | ds if data_interval_start is defined and data_interval_start "
            "else none)) }}",
            cwd="{{ home() }}",
            execution_timeout=timedelta(hours=hours),
            # Any exit code but 0 is a failure (Airflow would take 99 for a skipped task).
            skip_on_exit_code=None,
            do_xcom_push=False,
        )
        if before is not None:
            before >> step
        before = step
