"""Which earlier night a night's gold goes on from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from pyspark.sql import functions as F

from recsys import schemas
from recsys.lake.commits import BASE, NIGHT, keeps_rows, mark_of
from recsys.lake.operations import SUCCEEDED
from recsys.lake.tables import Lake
from recsys.schemas import Table

SETTINGS = "settings"
"""A detail of build_gold: the settings that shape the state, as JSON."""


CARRIED_ON = (schemas.GOLD_TRAINING_SEQUENCES, schemas.GOLD_RATINGS, schemas.GOLD_ITEM_STATS)
"""Tables whose older rows a night leaves where they lie."""


@dataclass(frozen=True)
class Base:
    """A night whose gold is still what its events say.

    Attributes:
        run_date: the night.
        versions: table name to the version that the night wrote.
        heads: of ``CARRIED_ON``, table name to the newest version: it holds all of the night's
            final rows, and whatever nights after it have added.
    """

    run_date: date
    versions: Mapping[str, int]
    heads: Mapping[str, int]


def state_settings(lake: Lake) -> str:
    """What two nights must have in common for one to go on from the other."""
    settings = lake.settings
    shape = settings.gold.model_dump(mode="json", exclude={"rows_per_row_group", "min_row_groups"})
    shape["late_days"] = settings.silver.late_days
    return json.dumps(shape, sort_keys=True)


def find_base(lake: Lake, run_date: date) -> Base | None:
    """The newest night before ``run_date`` to go on from; ``None``: all events must be read.

    A night is left out if its settings were others; if events of it or of a night before it were
    written again after its gold was built (that is how a repair reaches all that follows); or if
    gold was built since from an older night, which took away rows that this one had written.
    Delta's log says so, whatever was killed in between.
    """
    wanted = state_settings(lake)
    rows = (
        lake.read(schemas.OPS_RUNS)
        .where(F.col(schemas.RUN_DATE) < F.lit(run_date))
        .where((F.col(schemas.STAGE) == "build_gold") & (F.col(schemas.STATUS) == SUCCEEDED))
        .collect()
    )
    newest = {}
    for row in sorted(rows, key=lambda row: row.finished_at):
        newest[row[schemas.RUN_DATE]] = row
    for night in sorted(newest, reverse=True):
        row = newest[night]
        read = row[schemas.TABLES_READ].get(schemas.SILVER_EVENTS.name)
        same = row[schemas.DETAILS].get(SETTINGS) == wanted
        if not same or read is None or last_change(lake, night) > read:
            continue
        versions = row[schemas.TABLES_WRITTEN]
        heads = {table.name: lake.version(table) for table in CARRIED_ON}
        state = versions.get(schemas.GOLD_SEQUENCES.name)
        readable = state is not None and lake.can_read(schemas.GOLD_SEQUENCES, state)
        if readable and _still_holds(lake, night, versions, heads):
            return Base(night, versions, heads)
    return None


def _still_holds(
    lake: Lake, night: date, versions: Mapping[str, int], heads: Mapping[str, int]
) -> bool:
    """Whether the newest versions hold the final rows of ``night``: nobody went back behind it."""
    for table in CARRIED_ON:
        if table.name not in versions:
            return False
        for version in range(versions[table.name] + 1, heads[table.name] + 1):
            commit = _read(lake, table, version)
            base = mark_of(commit).get(BASE)
            if not keeps_rows(commit) and (not base or date.fromisoformat(base) < night):
                return False
    return True


def _read(lake: Lake, table: Table, version: int) -> Mapping[str, Any]:
    """A commit; one that is no longer in the log says nothing, so it may have done anything."""
    try:
        return lake.commit(table, version)
    except Exception:
        return {}


def last_change(lake: Lake, night: date) -> int:
    """The newest version of silver/events in which events of ``night`` or before were written."""
    for version in range(lake.version(schemas.SILVER_EVENTS), -1, -1):
        commit = _read(lake, schemas.SILVER_EVENTS, version)
        if keeps_rows(commit):
            continue
        written = mark_of(commit).get(NIGHT)
        if not written or date.fromisoformat(written) <= night:
            return version
    return -1
