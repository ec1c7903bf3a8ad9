"""Tiny raw logs written by hand, and formats that read them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame

from recsys import schemas
from recsys.lake.bronze import drop_headers, ingest_files, read_header
from recsys.lake.files import find_files
from recsys.lake.formats import LogFormat
from recsys.lake.parse import parse_records
from recsys.lake.silver import SilverCounts, build_silver
from recsys.lake.tables import Lake

DAY = date(2026, 3, 5)
NAMES = ("user", "item", "type", "ts", "rating", "value")
JSON: dict[str, Any] = {
    "kind": "json",
    "layout": "snapshot",
    "files": "*.json*",
    "columns": {
        "user_id": "user",
        "item_id": "item",
        "event_type": "type",
        "event_ts": "ts",
        "rating": "rating",
        "value": "value",
    },
    "timestamp": "iso8601",
    "event_types": {name: name for name in schemas.EVENT_TYPE_CODES},
}
NUMBERED = {"user_id": 0, "item_id": 1, "event_type": 2, "event_ts": 3, "rating": 4, "value": 5}


def log_format(**changes: Any) -> LogFormat:
    """The JSON format above, changed."""
    return LogFormat.model_validate({**JSON, **changes})


def csv_format(**changes: Any) -> LogFormat:
    return log_format(**{"kind": "csv", "header": True, "files": "*", **changes})


def event(user: str, item: str, ts: str, kind: str = "view", **more: Any) -> dict[str, Any]:
    """A record; a time without its date is on DAY."""
    return {"user": user, "item": item, "type": kind, "ts": moment(ts), **more}


def moment(ts: str) -> str:
    return ts if "-" in ts else f"{DAY}T{ts}Z"


def write_json(path: Path, records: Iterable[Mapping[str, Any] | str]) -> Path:
    """JSON lines; a record that is text is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def ingest(
    lake: Lake, log: LogFormat, root: Path, run_date: date = DAY, since: date | None = None
) -> DataFrame:
    """Ingest a night; its rows of bronze/events."""
    files = find_files(lake.spark, log, str(root), since, run_date)
    ingest_files(lake, log, files, run_date)
    bronze = lake.read(schemas.BRONZE_EVENTS)
    return bronze.where(bronze[schemas.INGEST_DATE] == run_date)


def parse(log: LogFormat, bronze: DataFrame, run_date: date = DAY) -> DataFrame:
    """The rows of bronze, parsed as build_silver does."""
    records = drop_headers(bronze, log)
    return parse_records(records, log, read_header(bronze, log), run_date, 300, 10_000)


def build(
    lake: Lake, log: LogFormat, root: Path, run_date: date = DAY, since: date | None = None
) -> SilverCounts:
    """Ingest a night and build silver."""
    ingest(lake, log, root, run_date, since)
    return build_silver(lake, log, str(root), since, run_date)
