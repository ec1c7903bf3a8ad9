"""Late events within the window count, older ones do not; users above the cap are set aside."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from recsys import schemas
from recsys.lake.base import find_base
from recsys.lake.gold_events import new_events
from recsys.lake.tables import Lake
from tests.spark.etl_nights import DAYS, SMALL, Etl
from tests.spark.tiny_logs import event

pytestmark = [pytest.mark.spark, pytest.mark.long]


def test_what_comes_late_or_too_often(make_lake: Callable[..., Lake], tmp_path: Path) -> None:
    lake = make_lake(*SMALL, "silver.max_user_events_per_day=7")
    etl = Etl(lake, tmp_path / "logs")
    first, second = DAYS[:2]
    bot = [event("bot", f"i{n}", f"{second}T10:00:{10 + 3 * n}Z") for n in range(8)]
    busy = [event("ann", f"i{n}", f"{second}T11:00:{10 + 3 * n}Z") for n in range(5)]
    late = [event("ann", "a", f"{second - timedelta(days=days)}T12:00:00Z") for days in (1, 2, 3)]
    etl.write(
        {first: [event("bot", "a", f"{first}T09:00:00Z")], second: bot + bot[:1] + busy + late}
    )
    etl.run(first)
    files = set(lake.read(schemas.SILVER_EVENTS).inputFiles())
    said = etl.run(second)

    # Of the events gold opens the files that this night has written, and none of the nights before.
    base = find_base(lake, second)
    events = new_events(lake, lake.version(schemas.SILVER_EVENTS), base, second)
    assert set(events.inputFiles()) == set(lake.read(schemas.SILVER_EVENTS).inputFiles()) - files

    # Five of the day, two within silver.late_days=2; the bot's day is set aside, its copy too.
    line = next(text for text in said if "build_silver" in text)
    assert "7 events, 1 duplicates, 1 rejects, 8 set aside" in line
    assert f"late: 1 of {second - timedelta(days=2)}, 1 of {first}" in line
    rejects = lake.read(schemas.BRONZE_REJECTS).select("reason").collect()
    assert [row[0] for row in rejects] == ["too_late"]
    aside = lake.read(schemas.SILVER_SET_ASIDE).select("user_id", "log_date", "events").collect()
    assert [tuple(row) for row in aside] == [("bot", second, 8)]
    # What the bot did on the day before stays.
    sizes = dict(lake.read(schemas.GOLD_SEQUENCES).select("user_id", "length").collect())
    assert sizes == {"bot": 1, "ann": 6}

    # A higher cap and a repair take the day in, and there is nobody aside any more.
    section = lake.settings.silver.model_copy(update={"max_user_events_per_day": 100})
    raised = etl.lake.settings.model_copy(update={"silver": section})
    again = Etl(Lake(lake.spark, raised), tmp_path / "logs")
    again.run(second)
    assert lake.read(schemas.SILVER_SET_ASIDE).count() == 0
    sizes = dict(lake.read(schemas.GOLD_SEQUENCES).select("user_id", "length").collect())
    assert sizes == {"bot": 9, "ann": 6}
