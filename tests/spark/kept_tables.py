"""Tables with given versions, files and nights, for the tests of housekeeping."""

from __future__ import annotations

import json
import time
from datetime import UTC, date, datetime
from typing import Any

from pyspark.sql import DataFrame, SparkSession

from recsys import schemas
from recsys.lake.in_use import find_pins
from recsys.lake.operations import SUCCEEDED, StageRun, record_run
from recsys.lake.publish import Published, publish
from recsys.lake.tables import Lake
from recsys.lake.vacuum import plan_vacuum, run_vacuum
from recsys.schemas import Table

NIGHT = date(2026, 3, 5)
NOW_IS_ALL = ("lake.vacuum_hours=0", "lake.keep_nights=2", "lake.compact_from_files=3")


def rows(spark: SparkSession, table: Table, first: int, count: int, **constants: Any) -> DataFrame:
    """``count`` rows in one file; columns are made from the row's number or are constant."""
    made = {
        "string": "concat('x', id)",
        "int": "cast(id as int)",
        "bigint": "id",
        "double": "double(id)",
        "float": "float(id)",
        "date": f"date'{NIGHT}'",
        "timestamp": f"timestamp'{NIGHT} 00:00:00'",
    }
    texts = [
        f"{constants[c.name]} as {c.name}"
        if c.name in constants
        else f"{made.get(c.type, 'null')} as {c.name}"
        for c in table.columns
    ]
    return spark.range(first, first + count, 1, 1).selectExpr(*texts)


def content(frame: DataFrame) -> list[str]:
    return sorted(json.dumps(json.loads(row), sort_keys=True) for row in frame.toJSON().collect())


def note_night(lake: Lake, night: date, stage: str = "publish", **versions: int) -> None:
    written = {name.replace("__", "/"): version for name, version in versions.items()}
    record_run(lake, StageRun(night, stage, SUCCEEDED, "f" * 64, tables_written=written))


def vacuum(lake: Lake, table: Table) -> int:
    """Files removed, of what nobody needs at this moment."""
    time.sleep(0.002)  # a file of this very millisecond is not old yet
    plan = plan_vacuum(lake, table, find_pins(lake), datetime.now(UTC))
    assert not plan.broken
    return run_vacuum(lake, plan).files


def top_n(lake: Lake, night: date) -> int:
    table = schemas.GOLD_TOP_N
    lists = rows(lake.spark, table, 0, 5, run_date=f"date'{night}'", model_version=f"'{night}'")
    return lake.replace(table, lists, f"run_date = '{night}'").version


def put_live(lake: Lake, night: date, version: int, users: int = 0, items: int = 0) -> None:
    publish(lake, Published(night, version, "recsys", "1", users, items, 5))
