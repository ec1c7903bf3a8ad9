"""ops/published: one commit flips what is live; readers follow it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import LakeError, PublishError
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


def published_before(lake: Lake, run_date: date) -> Published | None:
    """The newest published night before a date whose lists are still there: a night's measure."""
    earlier = lake.read(schemas.OPS_PUBLISHED).where(F.col(schemas.RUN_DATE) < F.lit(run_date))
    newest = earlier.orderBy(F.desc(schemas.RUN_DATE)).first()
    night = None if newest is None else _to_published(newest)
    there = night is not None and lake.can_read(schemas.GOLD_TOP_N, night.top_n_version)
    return night if there else None


def live_lists(lake: Lake) -> DataFrame:
    """The live lists: rows of gold/top_n at the published version."""
    return lists_of(lake, live(lake))


def lists_of(lake: Lake, night: Published) -> DataFrame:
    """The lists of a published night: rows of gold/top_n."""
    return lake.read(schemas.GOLD_TOP_N, night.top_n_version).where(
        F.col(schemas.RUN_DATE) == F.lit(night.run_date)
    )


def roll_back(lake: Lake, to: date | None = None) -> tuple[Published, Published]:
    """Make the lists of an earlier night live again: what was live, and what is.

    Later nights are no longer published; one commit does it. What they wrote stays.

    Args:
        to: the night; None is the one published before the live one. The live night itself
            changes nothing.

    Raises:
        PublishError: that night is not published, or its lists can't be read any more.
    """
    table, version = schemas.OPS_PUBLISHED, lake.version(schemas.OPS_PUBLISHED)
    was = live(lake)
    nights = [row[0] for row in lake.read(table, version).select(schemas.RUN_DATE).collect()]
    earlier = sorted(day for day in nights if day < was.run_date)
    if to is None and not earlier:
        raise PublishError(
            f"{was.run_date} is the only night that is published",
            where=lake.path(table),
            do="nothing is there to go back to: mend the cause and run the night again",
        )
    target = _find(lake, to or earlier[-1])
    if target is None or target.run_date > was.run_date:
        dates = ", ".join(map(str, [*earlier[-5:], was.run_date]))
        raise PublishError(
            f"the night of {to} is not published",
            where=lake.path(table),
            do=f"choose one of the published nights: {dates}",
        )
    if target == was:
        return was, target
    _require_lists(lake, target)
    rows = lake.read(table, version).limit(0)
    lake.replace(table, rows, f"{schemas.RUN_DATE} > '{target.run_date}'", after=version)
    return was, target


def _require_lists(lake: Lake, night: Published) -> None:
    try:
        lists = lake.read(schemas.GOLD_TOP_N, night.top_n_version)
        found = lists.where(F.col(schemas.RUN_DATE) == F.lit(night.run_date)).count()
    except LakeError:
        found = 0
    if not found:
        raise PublishError(
            f"the lists of {night.run_date} can't be read any more",
            where=f"{lake.path(schemas.GOLD_TOP_N)} version {night.top_n_version}",
            do="go back to a later night (lake.keep_nights says how many are kept)",
        )


def _find(lake: Lake, run_date: date | None) -> Published | None:
    rows = lake.read(schemas.OPS_PUBLISHED)
    if run_date is not None:
        rows = rows.where(F.col(schemas.RUN_DATE) == F.lit(run_date))
    newest = rows.orderBy(F.desc(schemas.RUN_DATE)).first()
    return None if newest is None else _to_published(newest)


def _to_published(row: Row) -> Published:
    return Published(**{name: row[name] for name in Published.__dataclass_fields__})
