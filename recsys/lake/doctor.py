"""A look at every table: how large, in how many pieces, since when, what is wrong, what to do."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import LakeError, first_line
from recsys.lake.compaction import plan_compaction
from recsys.lake.in_use import Pins, began_under_way, find_pins
from recsys.lake.retention import find_expired
from recsys.lake.table_files import (
    LiveFile,
    Log,
    count_row_groups,
    files_of,
    live_files,
    read_log,
)
from recsys.lake.tables import Lake
from recsys.lake.vacuum import VacuumPlan, plan_vacuum
from recsys.schemas import Table

_FOOTERS = 50
"""Files whose footers are read at most."""
_WORTH = 0.1
"""Share of the bytes on disk from which a vacuum is worth its time."""


@dataclass(frozen=True)
class Problem:
    """Something that is wrong now: what, and what to do about it."""

    what: str
    do: str


@dataclass
class Health:
    """One table as it is.

    Attributes:
        version: newest, -1 where the table was never written; ``oldest`` that the log can tell.
        oldest_readable: whether the oldest still has its files.
        rows: of the newest version.
        live_bytes, stored_bytes: of the newest version; of all data files on disk.
        files, small_files: of the newest version; those that compaction would take.
        row_groups: of the newest version, estimated from ``footers_read`` files where there are
            more.
        skew: largest partition by bytes against the median one (files where there is one alone).
        deleted_share: share of rows that deletion vectors hide.
        removable_bytes: what vacuum would free now.
        expired: partitions older than the table's retention.
        do: commands worth running.
    """

    table: str
    version: int = -1
    oldest: int = -1
    oldest_readable: bool = False
    rows: int | None = 0
    live_bytes: int = 0
    stored_bytes: int = 0
    files: int = 0
    small_files: int = 0
    row_groups: int = 0
    footers_read: int = 0
    skew: float = 1.0
    deleted_share: float = 0.0
    removable_bytes: int = 0
    expired: int = 0
    do: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def examine(
    lake: Lake, tables: Sequence[Table], now: datetime
) -> tuple[list[Health], list[Problem]]:
    """Look at tables, and at the lake as a whole; nothing is changed.

    Returns:
        One entry a table, and the problems that are no single table's.
    """
    whole: list[Problem] = []
    pins: Pins | None = None
    running = None
    try:
        pins, running = find_pins(lake), began_under_way(lake, now)
    except LakeError as error:
        whole.append(Problem(error.what, error.do))
    return [_examine(lake, table, pins, now, running) for table in tables], whole


def _examine(
    lake: Lake, table: Table, pins: Pins | None, now: datetime, running: datetime | None
) -> Health:
    health = Health(table.name)
    try:
        health.version = lake.version(table)
        if health.version < 0:
            return health
        files, log = live_files(lake, table), read_log(lake, table)
        _measure(health, files)
        plan = plan_vacuum(lake, table, pins or {}, now, running)
    except LakeError as error:
        health.problems.append(Problem(error.what, error.do))
        return health
    _look_at_disk(lake, table, health, files, log, plan)
    # Without ops/runs nobody knows what is in use: then nothing is offered to vacuum.
    health.removable_bytes = plan.removable_bytes if pins is not None else 0
    health.small_files = sum(work.files for work in plan_compaction(lake, table, files))
    health.expired = len(find_expired(lake, table, files).dates)
    if table is schemas.OPS_PUBLISHED and not health.problems:
        health.problems += _doubled_nights(lake)
    health.do = _advise(health)
    return health


def _measure(health: Health, files: Sequence[LiveFile]) -> None:
    counts = [file.rows for file in files]
    deleted = sum(file.deleted_rows for file in files)
    known = None if None in counts else sum(count or 0 for count in counts)
    health.rows = None if known is None else known - deleted
    health.deleted_share = deleted / known if known else 0.0
    health.live_bytes, health.files = sum(file.size for file in files), len(files)
    partitions: dict[object, int] = defaultdict(int)
    for file in files:
        partitions[file.partition] += file.size
    sizes = list(partitions.values()) if len(partitions) > 1 else [file.size for file in files]
    health.skew = max(sizes) / max(1.0, statistics.median(sizes)) if sizes else 1.0


def _look_at_disk(
    lake: Lake,
    table: Table,
    health: Health,
    files: Sequence[LiveFile],
    log: Log,
    plan: VacuumPlan,
) -> None:
    names = {file.name for file in plan.stored}
    health.stored_bytes = sum(file.size for file in plan.stored)
    health.oldest = log.oldest
    health.oldest_readable = _is_whole(lake, table, log.oldest, names)
    if missing := sorted(file.name for file in files if file.name not in names):
        health.problems.append(
            Problem(
                f"{len(missing)} of {len(files)} files of the newest version are missing, e.g. "
                f"{missing[0]}",
                "restore them from a backup, or let the night that wrote them run again with "
                "--force",
            )
        )
    for version, why in plan.broken.items():
        health.problems.append(
            Problem(
                f"version {version} is in use and can't be read any more ({why})",
                "restore the table's folder from a backup, or run that night again with --force",
            )
        )
    _count_groups(lake, table, health, [file.name for file in files if file.name in names])


def _count_groups(lake: Lake, table: Table, health: Health, names: list[str]) -> None:
    step = max(1, -(-len(names) // _FOOTERS))
    sample = names[::step]
    try:
        groups = count_row_groups(lake, table, sample)
    except Exception as error:
        health.problems.append(
            Problem(
                f"a data file is damaged: {first_line(error)}",
                "restore it from a backup, or let the night that wrote it run again with --force",
            )
        )
        return
    health.footers_read = len(sample)
    health.row_groups = round(sum(groups) * len(names) / max(1, len(sample)))
    training = table.name == schemas.GOLD_TRAINING_SEQUENCES.name
    if training and any(count != 1 for count in groups):
        health.problems.append(
            Problem("a training file has not exactly one row group", "recsys build-gold --force")
        )


def _is_whole(lake: Lake, table: Table, version: int, names: set[str]) -> bool:
    try:
        return files_of(lake, table, version) <= names
    except LakeError:
        return False


def _doubled_nights(lake: Lake) -> list[Problem]:
    rows = lake.read(schemas.OPS_PUBLISHED).groupBy(schemas.RUN_DATE).count()
    doubled = rows.where(F.col("count") > 1).orderBy(schemas.RUN_DATE).collect()
    return [
        Problem(
            f"{row[0]} is published {row[1]} times, so readers may see either",
            f"recsys publish --date {row[0]} --force",
        )
        for row in doubled
    ]


def _advise(health: Health) -> list[str]:
    found = []
    if health.expired:
        found.append("retention")
    if health.small_files:
        found.append("compact")
    if health.removable_bytes > _WORTH * health.stored_bytes:
        found.append("vacuum")
    return [f"recsys lake {name} --table {health.table}" for name in found]
