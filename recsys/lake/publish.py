"""ops/published: one commit flips what is live; readers follow it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import PublishError
from recsys.lake.local import local_frame
from recsys.lake.tables import Lake


@dataclass(frozen=True)
class Published:
    """What is live: one row of ops/published."""

    run_date: date
    top_n_version: int
    model_name: str
    model_version: str
    users_version: int
    items_version: int
    lists: int


def publish(lake: Lake, night: Published) -> int:
    """Make a night's lists live; publishing the same again writes nothing. The table's version."""
    table = schemas.OPS_PUBLISHED
    if _find(lake, night.run_date) == night:
        return lake.version(table)
    row = [getattr(night, name) for name in Published.__dataclass_fields__]
    frame = local_frame(lake.spark, [(*row, datetime.now(UTC))], table.ddl)
    where = f"{schemas.RUN_DATE} = '{night.run_date}'"
    return lake.replace(table, frame, where).version


def live(lake: Lake) -> Published:
    """The newest published night.

    Raises:
        PublishError: nothing was published yet.
    """
    found = _find(lake, None)
    if found is None:
        raise PublishError(
            "no lists are published yet",
            where=lake.path(schemas.OPS_PUBLISHED),
            do="run `recsys nightly`, or check --lake (lake.root)",
        )
    return found


def live_lists(lake: Lake) -> DataFrame:
    """The live lists: rows of gold/top_n at the published version."""
    night = live(lake)
    return lake.read(schemas.GOLD_TOP_N, night.top_n_version).where(
        F.col(schemas.RUN_DATE) == F.lit(night.run_date)
    )


def _find(lake: Lake, run_date: date | None) -> Published | None:
    rows = lake.read(schemas.OPS_PUBLISHED)
    if run_date is not None:
        rows = rows.where(F.col(schemas.RUN_DATE) == F.lit(run_date))
    newest = rows.orderBy(F.desc(schemas.RUN_DATE)).first()
    if newest is None:
        return None
    return Published(**{name: newest[name] for name in Published.__dataclass_fields__})
