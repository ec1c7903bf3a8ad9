"""ETL nights on small daily logs, in this process or one of its own; what they leave, by ids.

    python -m tests.spark.etl_nights LAKE LOGS DATE [DATE ...]

runs the ETL of the dates, one after the other.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from recsys import schemas
from recsys.lake.tables import Lake
from recsys.steps.context import Context, Step
from recsys.steps.etl import BUILD_GOLD, BUILD_SILVER, INGEST
from recsys.steps.runner import run_night
from tests.spark.tiny_logs import DAY, log_format, write_json

DAYS = [DAY + timedelta(days=n) for n in range(4)]
DAILY = log_format(layout="daily", files="dt={date}/*.json")
SMALL = (
    "gold.sequence_length=4", "gold.length_buckets=[2, 4]", "gold.min_row_groups=1",
    "silver.late_days=2", "privacy.pseudonyms=false", "ingest.max_reject_share=1",
)  # fmt: skip


STEPS = (INGEST, BUILD_SILVER, BUILD_GOLD)


class Etl:
    """A daily log in a folder, a lake, and what runs the ETL of nights."""

    def __init__(self, lake: Lake, logs: Path) -> None:
        section = lake.settings.input.model_copy(update={"path": str(logs)})
        changed = lake.settings.model_copy(update={"input": section})
        self.lake, self.logs = Lake(lake.spark, changed), logs

    def write(self, days: Mapping[date, list[dict[str, Any]]]) -> None:
        for day, records in days.items():
            write_json(self.logs / f"dt={day}/log.json", records)

    def run(self, day: date, force: bool = False, steps: Sequence[Step] = STEPS) -> list[str]:
        said: list[str] = []
        context = Context(self.lake.settings, DAILY, day, self.lake, force, say=said.append)
        run_night(context, steps)
        return said


def content(lake: Lake) -> dict[str, list[str]]:
    """What the ETL's tables say: by ids instead of indices, without when a row came."""
    users = {
        r[1]: r[0] for r in lake.read(schemas.SILVER_USERS).select("user_id", "user_idx").collect()
    }
    items = {
        r[1]: r[0] for r in lake.read(schemas.SILVER_ITEMS).select("item_id", "item_idx").collect()
    }

    def named(name: str, value: Any) -> Any:
        if name == "user_idx":
            return users[value]
        if name == "item_idx":
            return items[value]
        if name in ("seen_items", "targets", "new_items"):
            return sorted(items[n] for n in value)
        if name == "items":
            return [items.get(n, 0) for n in value]
        if name in ("settled", "recent"):
            return [{**e, "item": items[e["item"]]} for e in value]
        return value

    tables = (
        schemas.SILVER_EVENTS, schemas.SILVER_SET_ASIDE, schemas.GOLD_SEQUENCES,
        schemas.GOLD_TRAINING_SEQUENCES, schemas.GOLD_HOLDOUT, schemas.GOLD_RATINGS,
        schemas.GOLD_ITEM_STATS,
    )  # fmt: skip
    found = {}
    for table in tables:
        rows = [
            json.loads(row)
            for row in lake.read(table).drop("ingest_date", "split").toJSON().collect()
        ]
        found[table.name] = sorted(
            json.dumps({name: named(name, value) for name, value in row.items()}, sort_keys=True)
            for row in rows
        )
    return found


def main() -> None:
    from recsys.config import load_settings
    from recsys.lake.session import build_session

    root, logs, *dates = sys.argv[1:]
    settings = load_settings(None, [f"lake.root={root}", "spark.shuffle_partitions=2", *SMALL])
    etl = Etl(Lake(build_session(settings, "etl"), settings), Path(logs))
    for text in dates:
        for line in etl.run(date.fromisoformat(text)):
            print(text, line, flush=True)


if __name__ == "__main__":
    main()
