"""Removing files of old versions, and none that a version still in use needs.

Delta's VACUUM knows hours alone, and forgets after a week (``deletedFileRetentionDuration``) when
a file was removed, so no number of hours protects a version for sure. Here the files in use are
named, version by version, and Delta is given the rest as the inventory to clean.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil

from recsys.errors import LakeError
from recsys.lake.in_use import Pins
from recsys.lake.local import local_frame
from recsys.lake.table_files import (
    StoredFile,
    added_since,
    base_path,
    files_of,
    list_files,
    read_log,
)
from recsys.lake.tables import Lake
from recsys.schemas import Table

_INVENTORY = "path string, length bigint, isDir boolean, modificationTime bigint"
_NAMES_A_TASK = 10_000
_UNCHECKED = "spark.databricks.delta.retentionDurationCheck.enabled"


@dataclass(frozen=True)
class VacuumPlan:
    """What would go.

    Attributes:
        keep_from: every version from this one on keeps its files.
        pinned: older versions that keep theirs, with their files.
        broken: versions in use that cannot be read, with the reason.
        needed: names of the files of all these.
        stored: all data files on disk.
        removable: files that no version in use has, old enough to go.
        hours: age in hours below which nothing goes.
    """

    table: Table
    keep_from: int
    pinned: dict[int, set[str]]
    broken: dict[int, str]
    needed: set[str]
    stored: list[StoredFile]
    removable: list[StoredFile]
    hours: int

    @property
    def removable_bytes(self) -> int:
        return sum(file.size for file in self.removable)


def plan_vacuum(
    lake: Lake, table: Table, pins: Pins, now: datetime, running_since: datetime | None = None
) -> VacuumPlan:
    """Find the files of a table that nobody needs.

    Args:
        pins: of ``in_use.find_pins``.
        running_since: when a night began that still runs; what is younger stays.

    Raises:
        LakeError: the table's log cannot be read.
    """
    hours = lake.settings.lake.vacuum_hours
    if running_since is not None:
        hours = max(hours, ceil((now - running_since) / timedelta(hours=1)))
    before = now - timedelta(hours=hours)
    # In this order: a file that is written meanwhile is in no listing, so it is not removable.
    stored = list_files(lake, table)
    log = read_log(lake, table)
    keep_from = log.current_at(before)
    needed = files_of(lake, table, keep_from) | added_since(lake, table, log, keep_from)
    names = {file.name for file in stored}
    pinned, broken = {}, {}
    for version, who in sorted(pins.get(table.name, {}).items()):
        try:
            files = files_of(lake, table, version)
        except LakeError:
            broken[version] = f"{who}: its log entry is gone"
            continue
        pinned[version] = files
        if missing := files - names:
            broken[version] = f"{who}: {len(missing)} files are missing, e.g. {min(missing)}"
    needed = needed.union(*pinned.values())
    removable = [
        file
        for file in stored
        if file.name not in needed and file.modified_ms < before.timestamp() * 1000
    ]
    return VacuumPlan(table, keep_from, pinned, broken, needed, stored, removable, hours)


@dataclass(frozen=True)
class Freed:
    """What a vacuum has removed, and how many versions in use were found whole after it."""

    files: int = 0
    bytes: int = 0
    checked: int = 0


def run_vacuum(lake: Lake, plan: VacuumPlan) -> Freed:
    """Have Delta remove the plan's files, then check every version in use.

    Nothing is written where nothing is to go. Delta looks again itself: it leaves every file of
    the newest version, and what was removed from it within ``plan.hours``.

    Raises:
        LakeError: a version in use has lost a file.
    """
    if not plan.removable:
        return Freed()
    base = base_path(lake, plan.table)
    # A session of its own: its settings are seen by nobody else, and end with it.
    session = lake.spark.newSession()
    session.conf.set(_UNCHECKED, "false")
    session.conf.set("spark.sql.shuffle.partitions", str(1 + len(plan.removable) // _NAMES_A_TASK))
    rows = [(f"{base}/{f.name}", f.size, False, f.modified_ms) for f in plan.removable]
    local_frame(session, rows, _INVENTORY).createOrReplaceTempView("inventory")
    path = lake.path(plan.table).replace("`", "``")
    session.sql(
        f"VACUUM delta.`{path}` USING INVENTORY (SELECT * FROM inventory) RETAIN {plan.hours} HOURS"
    )
    left = {file.name for file in list_files(lake, plan.table)}
    checked = _check(lake, plan, left)
    gone = [file for file in plan.removable if file.name not in left]
    return Freed(len(gone), sum(file.size for file in gone), checked)


def _check(lake: Lake, plan: VacuumPlan, left: set[str]) -> int:
    """Compare what Delta says of each version with what lies there now; how many versions."""
    versions = [v for v in (*plan.pinned, plan.keep_from) if v not in plan.broken]
    versions = sorted({*versions, lake.version(plan.table)})
    for version in versions:
        if missing := files_of(lake, plan.table, version) - left:
            raise LakeError(
                f"version {version} of table {plan.table.name} has lost {len(missing)} files",
                where=f"{lake.path(plan.table)}, e.g. {min(missing)}",
                do="restore them from a backup, and run no vacuum until this is explained",
            )
    return len(versions)
