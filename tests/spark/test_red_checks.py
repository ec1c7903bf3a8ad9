"""Red checks stop the publishing until they are mended or overruled."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from recsys import schemas
from recsys.cli.main import main
from recsys.config import load_settings
from recsys.errors import PublishError
from recsys.lake.operations import SUCCEEDED, StageRun, record_run
from recsys.lake.publish import live
from recsys.lake.tables import Lake
from recsys.steps.context import Context
from recsys.steps.lists import PUBLISH
from recsys.steps.runner import run_night
from tests.spark.checked_nights import TYPES, check_and_record, events_of
from tests.spark.tiny_logs import DAY, log_format

pytestmark = pytest.mark.spark


def context_to_publish(lake: Lake, *overrides: str) -> tuple[Context, list[str]]:
    said: list[str] = []
    settings = load_settings(None, [f"lake.root={lake.settings.lake.root}", *overrides])
    return Context(settings, log_format(), DAY, Lake(lake.spark, settings), say=said.append), said


def test_red_stops_the_publishing_until_it_is_mended_or_overruled(
    make_lake: Callable[..., Lake], capsys: pytest.CaptureFixture[str]
) -> None:
    lake = make_lake()
    versions = {table.name: 3 for table in schemas.TABLES}
    for stage in ("build_silver", "build_gold", "score_users"):
        details = {"model_version": "1"}
        record_run(
            lake, StageRun(DAY, stage, SUCCEEDED, stage, 1, 7, details, {}, tables_written=versions)
        )
    lake.replace(schemas.SILVER_EVENTS, events_of(lake.spark, [TYPES]))
    check_and_record(lake, DAY, {"events": 99, "duplicates": 0, "read": 99})
    context, _ = context_to_publish(lake)
    with pytest.raises(PublishError) as caught:
        run_night(context, (PUBLISH,))
    assert "silver/events, rows as counted: 100 rows, the stage counted 99" in caught.value.what
    assert caught.value.where.endswith("/silver/events version 0")
    assert "quality.block_publish=off" in caught.value.do
    assert lake.version(schemas.OPS_PUBLISHED) == -1

    with pytest.raises(SystemExit) as ended:
        main(["checks", "--date", str(DAY), "--lake", lake.settings.lake.root])
    assert ended.value.code == 1
    assert "100 rows, the stage counted 99" in capsys.readouterr().out

    context, said = context_to_publish(lake, "quality.block_publish=off")
    run_night(context, (PUBLISH,))
    assert live(lake).lists == 7
    assert any("red quality checks, published all the same" in line for line in said)

    check_and_record(lake, DAY, {"events": 100, "duplicates": 0, "read": 100})
    context, _ = context_to_publish(lake)
    context.force = True
    run_night(context, (PUBLISH,))
    with pytest.raises(SystemExit) as ended:
        main(["checks", "--date", str(DAY), "--lake", lake.settings.lake.root])
    assert ended.value.code == 0
