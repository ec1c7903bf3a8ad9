"""Old partitions go: of raw records after days, of lists after nights, as each table declares."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

from pyspark.sql import functions as F

from recsys import schemas
from recsys.config import Settings
from recsys.errors import ConfigError
from recsys.lake.commits import ROWS_KEPT, USER_METADATA
from recsys.lake.faults import explain_write
from recsys.lake.in_use import live_date
from recsys.lake.table_files import LiveFile
from recsys.lake.tables import Lake
from recsys.schemas import Table


@dataclass(frozen=True)
class Expired:
    """Partitions of a table to delete: dates, and rows and bytes in them."""

    dates: tuple[date, ...]
    rows: int
    bytes: int


def retention_days(settings: Settings, table: Table) -> int | None:
    """Days of partitions that are kept; ``None``: all.

    Raises:
        ConfigError: ``lake.retention_days`` names an unknown table, one without partitions by
            date, or days below one.
    """
    chosen = settings.lake.retention_days
    dated = {t.name for t in schemas.TABLES if _date_column(t)}
    for name, days in chosen.items():
        if name not in dated:
            raise ConfigError(
                f"lake.retention_days: {name} is no table with partitions by date",
                do=f"those are {', '.join(sorted(dated))}",
            )
        if days is not None and days < 1:
            raise ConfigError(f"lake.retention_days: {name}={days} must be 1 or more, or null")
    return chosen.get(table.name, table.retention_days)


def find_expired(lake: Lake, table: Table, files: list[LiveFile]) -> Expired:
    """Partitions that are older, by days, than the table's newest one; never the live night's.

    Counted from the newest partition, not from today: a lake of old logs stays whole.
    """
    column, days = _date_column(table), retention_days(lake.settings, table)
    if column is None or days is None:
        return Expired((), 0, 0)
    dated = [(date.fromisoformat(v), f) for f in files if (v := dict(f.partition)[column])]
    if not dated:
        return Expired((), 0, 0)
    oldest = max(day for day, _ in dated) - timedelta(days=days - 1)
    live = live_date(lake) if table is schemas.GOLD_TOP_N else None
    old = [(day, file) for day, file in dated if day < oldest and day != live]
    return Expired(
        tuple(sorted({day for day, _ in old})),
        sum(file.rows or 0 for _, file in old),
        sum(file.size for _, file in old),
    )


def delete_expired(lake: Lake, table: Table, expired: Expired) -> None:
    """Delete the partitions in one commit; their files go with the next vacuum.

    Raises:
        LakeError: the table could not be written.
    """
    if not expired.dates:
        return
    column = _date_column(table)
    assert column is not None, "only dated tables expire"
    session = lake.spark.newSession()
    # What is derived from the rows stays as it is: nothing need be built again.
    session.conf.set(USER_METADATA, ROWS_KEPT)
    try:
        own = Lake(session, lake.settings)
        own.delta(table).delete(F.col(column).isin(list(expired.dates)))
    except Exception as error:
        raise explain_write(table.name, lake.path(table), error) from error


def _date_column(table: Table) -> str | None:
    types = {column.name: column.type for column in table.columns}
    return next((name for name in table.partition_by if types[name] == "date"), None)
