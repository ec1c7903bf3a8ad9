"""Run by the Python of .venv-airflow: prints the DAG and the commands of its steps as JSON."""

import json
import os
import sys

from airflow.dag_processing.dagbag import DagBag

bag = DagBag(sys.argv[1])
dag = bag.dags["recsys_nightly"]
spark_submit = dag.user_defined_macros["spark_submit"]


def error_of(home, night):
    os.environ["RECSYS_HOME"] = home
    try:
        spark_submit("ingest", night)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


described = {
    "errors": {str(file): str(error) for file, error in bag.import_errors.items()},
    "timetable": type(dag.timetable).__name__,
    "cron": dag.timetable.expression,
    "catchup": dag.catchup,
    "max_active_runs": dag.max_active_runs,
    "tags": sorted(dag.tags),
    "has_doc": bool(dag.doc_md),
    "command": spark_submit("train", "2026-01-02"),
    "housekeeping": bag.dags["recsys_housekeeping"].user_defined_macros["housekeeping_command"](),
    "no_night": error_of("", None),
    "wrong_home": error_of("/nowhere", "2026-01-02"),
    "imports_recsys": "recsys" in sys.modules,
    "tasks": {
        task.task_id: {
            "downstream": sorted(task.downstream_task_ids),
            "retries": task.retries,
            "retry_delay_seconds": task.retry_delay.total_seconds(),
            "timeout_seconds": task.execution_timeout.total_seconds(),
            "depends_on_past": task.depends_on_past,
        }
        for task in dag.tasks
    },
}
print("DAG " + json.dumps(described))
