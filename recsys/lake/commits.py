"""What Delta's log remembers of a commit: whose rows it wrote, and what they were made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pyspark.sql import SparkSession

from recsys.java import file_system, hadoop_path, read_text

NIGHT = "night"
"""In a commit's mark: the run date of the rows that it wrote."""
BASE = "base"
"""In a commit's mark: the run date of the night that it went on from; empty: from none."""
USER_METADATA = "spark.databricks.delta.commitInfo.userMetadata"
ROWS_KEPT = '{"rows": "kept"}'
"""The mark of a commit that writes no night's rows: what nights have built on stays valid."""
_WITHOUT_ROWS = ("OPTIMIZE", "VACUUM START", "VACUUM END", "SET TBLPROPERTIES", "REORG")


def read_commit(spark: SparkSession, path: str, version: int) -> dict[str, Any]:
    """Delta's information on a commit: operation, metrics, user metadata.

    Args:
        path: of the table.

    Raises:
        Exception: the log has no such entry any more.
    """
    entry = hadoop_path(spark, f"{path}/_delta_log/{version:020d}.json")
    lines = read_text(spark, file_system(spark, entry).open(entry))
    actions = (json.loads(line) for line in lines.splitlines())
    found: dict[str, Any] = next(a["commitInfo"] for a in actions if "commitInfo" in a)
    return found


def mark_of(commit: Mapping[str, Any]) -> dict[str, str]:
    """What this project has written into a commit; nothing where another writer made it."""
    try:
        mark = json.loads(commit.get("userMetadata") or "{}")
    except ValueError:
        return {}
    return mark if isinstance(mark, dict) else {}


def keeps_rows(commit: Mapping[str, Any]) -> bool:
    """Whether every row that a night wrote is still what it was, and none was added."""
    kept = commit.get("operation") in _WITHOUT_ROWS or mark_of(commit).get("rows") == "kept"
    return kept or _is_empty(commit)


def _is_empty(commit: Mapping[str, Any]) -> bool:
    """Whether a write added and removed nothing: that of a night that was left no rows."""
    metrics = commit.get("operationMetrics", {})
    files = [metrics.get(name, "0") for name in ("numFiles", "numRemovedFiles")]
    return commit.get("operation") == "WRITE" and "numFiles" in metrics and files == ["0", "0"]
