"""What became of each record of a night: counted, compared, and refused if it does not add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import InputError, LakeError
from recsys.lake.duplicates import DUPLICATE
from recsys.lake.formats import LogFormat
from recsys.lake.tables import Lake


@dataclass(frozen=True)
class SilverCounts:
    """What became of a night's records; ``read = events + duplicates + rejects + set_aside``.

    Attributes:
        late: of the events, those of days before the night's own; by day in ``late_days``.
        set_aside: events of users above the daily cap.
        reasons: rejects by reason.
    """

    read: int
    events: int
    duplicates: int
    rejects: int
    set_aside: int
    late: int
    new_users: int
    new_items: int
    late_days: dict[date, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Counted:
    """Records by reason, duplicates within the night, and events by their day."""

    reasons: dict[str, int]
    duplicates: int
    days: dict[date, int]

    @property
    def read(self) -> int:
        return sum(self.reasons.values()) + self.duplicates + sum(self.days.values())

    def settle(
        self,
        since: date | None,
        again: Mapping[date, int],
        events: int,
        rejects: int,
        set_aside: int,
        new_users: int,
        new_items: int,
    ) -> SilverCounts:
        """The night's counts.

        Args:
            since: the night before.
            again: events that other nights had brought, by day: duplicates too.
            events, rejects, set_aside, new_users, new_items: rows as they were written.
        """
        late = {
            day: count - again.get(day, 0)
            for day, count in sorted(self.days.items())
            if since is not None and day <= since and count > again.get(day, 0)
        }
        return SilverCounts(
            self.read, events, self.duplicates + sum(again.values()), rejects, set_aside,
            sum(late.values()), new_users, new_items, late, self.reasons,
        )  # fmt: skip


def count_records(marked: DataFrame) -> Counted:
    """Count the records; they lie in memory (or on disk) afterwards."""
    rows = marked.groupBy(schemas.REASON, DUPLICATE, schemas.EVENT_DATE).count().collect()
    reasons: dict[str, int] = {}
    for reason, _, _, count in rows:
        if reason is not None:
            reasons[reason] = reasons.get(reason, 0) + count
    valid = [row for row in rows if row[0] is None]
    duplicates = sum(count for _, again, _, count in valid if again)
    return Counted(reasons, duplicates, {day: n for _, again, day, n in valid if not again})


def count_days(events: DataFrame) -> dict[date, int]:
    """Events by their day."""
    return dict(events.groupBy(schemas.EVENT_DATE).count().collect())


def check_rejects(
    lake: Lake,
    log: LogFormat,
    counted: Counted,
    marked: DataFrame,
    run_date: date,
) -> None:
    read, reasons = counted.read, counted.reasons
    if read == 0:
        raise InputError(
            f"no records were ingested for {run_date}",
            where=lake.path(schemas.BRONZE_EVENTS),
            do=f"run ingest for {run_date} first",
        )
    limit = lake.settings.ingest.max_reject_share
    serious = {r: n for r, n in reasons.items() if r not in log.tolerated_rejects}
    tolerated = sum(reasons.values()) - sum(serious.values())
    if tolerated == read:
        raise InputError(
            f"no data up to {run_date}: all {read} records are later",
            do="choose a later --date, or check the log's `timestamp` format",
        )
    share = sum(serious.values()) / (read - tolerated)
    if share <= limit:
        return
    worst = max(serious, key=lambda reason: serious[reason])
    example = (
        marked.where(F.col(schemas.REASON) == worst)
        .orderBy(schemas.SOURCE_FILE, schemas.SOURCE_OFFSET)
        .select(schemas.SOURCE_FILE, schemas.SOURCE_OFFSET)
        .first()
    )
    assert example is not None, "the reason was counted"
    listed = ", ".join(f"{r} {n}" for r, n in sorted(serious.items(), key=lambda x: -x[1]))
    raise InputError(
        f"{share:.1%} of {read} records were rejected, allowed are {limit:.1%}: {listed}",
        where=f"first {worst}: {example[0]}:{example[1]}; "
        f"all in {lake.path(schemas.BRONZE_REJECTS)}",
        do="check that the log has the format's columns (conf/formats), or raise "
        "ingest.max_reject_share; nothing was published",
    )


def reconcile(counts: SilverCounts, read: int) -> None:
    parts = counts.events + counts.duplicates + counts.rejects + counts.set_aside
    if read != parts or read != counts.read:
        raise LakeError(
            f"records do not add up: read {read} ≠ events {counts.events} + duplicates "
            f"{counts.duplicates} + rejects {counts.rejects} + set aside {counts.set_aside}",
            where="build_silver",
            do="run the night again; if it stays, the bronze table was changed while it ran",
        )
