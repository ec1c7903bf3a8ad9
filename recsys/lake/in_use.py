"""Which versions of which tables somebody still needs: published lists, and the last nights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

from pyspark.sql import Row
from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import LakeError
from recsys.lake.operations import SUCCEEDED
from recsys.lake.tables import Lake

Pins = dict[str, dict[int, str]]
"""Table name to version to who needs it."""

_UNDER_WAY = timedelta(hours=24)
_LAST_STAGE = "publish"
_AFTERWARDS = "export"
"""A failed one leaves the night as publish has left it."""


def find_pins(lake: Lake) -> Pins:
    """Versions that must stay readable: of published nights, and of the last nights' stages.

    The last nights are the ``lake.keep_nights`` newest ones by date and as many by the time they
    ran (a backfill). What their stages have written is also what the next night starts from.

    Raises:
        LakeError: there is no ops/runs, so nobody can say what is in use.
    """
    if not lake.exists(schemas.OPS_RUNS):
        raise LakeError(
            "ops/runs is missing, so nobody knows which versions are in use",
            where=lake.path(schemas.OPS_RUNS),
            do="check --lake (lake.root); restore ops/runs from a backup if it was there",
        )
    pins: Pins = defaultdict(dict)
    keep = lake.settings.lake.keep_nights
    runs = lake.read(schemas.OPS_RUNS).where(F.col(schemas.STATUS) == SUCCEEDED).collect()
    for run in _newest_of_stages(runs, _last_nights(runs, keep)):
        for versions in (run[schemas.TABLES_READ], run[schemas.TABLES_WRITTEN]):
            for name, version in (versions or {}).items():
                pins[name].setdefault(version, f"{run[schemas.STAGE]} of {run[schemas.RUN_DATE]}")
    for at, night in enumerate(_published(lake)[:keep]):
        who = f"{'live' if at == 0 else 'published'} lists of {night[schemas.RUN_DATE]}"
        pins[schemas.GOLD_TOP_N.name][night[schemas.TOP_N_VERSION]] = who
        pins[schemas.SILVER_USERS.name][night[schemas.USERS_VERSION]] = who
        pins[schemas.SILVER_ITEMS.name][night[schemas.ITEMS_VERSION]] = who
    return dict(pins)


def kept_nights(lake: Lake) -> set[date]:
    """The dates of the nights whose versions are kept."""
    runs = lake.read(schemas.OPS_RUNS).select(schemas.RUN_DATE, "finished_at").collect()
    keep = lake.settings.lake.keep_nights
    published = [row[schemas.RUN_DATE] for row in _published(lake)[:keep]]
    return _last_nights(runs, keep) | set(published)


def live_date(lake: Lake) -> date | None:
    """The night whose lists are live."""
    nights = _published(lake)
    return nights[0][schemas.RUN_DATE] if nights else None


def began_under_way(lake: Lake, now: datetime) -> datetime | None:
    """When a night began that seems to run just now; ``None`` if none does.

    That is a night of which a stage ended within the last 24 hours and publish has not; one that
    failed, only until another one has done something. In its first stage nothing tells of a night:
    ``lake.vacuum_hours`` guards that one.
    """
    runs = lake.read(schemas.OPS_RUNS).collect()
    newest = max((run.finished_at for run in runs), default=None)
    started: datetime | None = None
    for day in {run[schemas.RUN_DATE] for run in runs}:
        mine = [run for run in runs if run[schemas.RUN_DATE] == day]
        last = max(mine, key=lambda run: run.finished_at)
        done = last[schemas.STAGE] == _AFTERWARDS or (
            last[schemas.STAGE] == _LAST_STAGE and last[schemas.STATUS] == SUCCEEDED
        )
        given_up = last[schemas.STATUS] != SUCCEEDED and last.finished_at != newest
        if done or given_up or now - _utc(last.finished_at) > _UNDER_WAY:
            continue
        begun = min(
            _utc(run.finished_at) - timedelta(seconds=run[schemas.SECONDS] or 0)
            for run in mine
            if now - _utc(run.finished_at) <= _UNDER_WAY
        )
        started = min(begun, started or begun)
    return started


def _utc(moment: datetime) -> datetime:
    # Spark gives timestamps without zone, in the zone of this machine.
    return moment.astimezone(UTC)


def _last_nights(runs: Sequence[Row], keep: int) -> set[date]:
    ended: dict[date, datetime] = {}
    for run in runs:
        day = run[schemas.RUN_DATE]
        ended[day] = max(run.finished_at, ended.get(day, run.finished_at))
    by_time = sorted(ended, key=lambda day: ended[day])
    return set(sorted(ended)[-keep:]) | set(by_time[-keep:])


def _newest_of_stages(runs: Sequence[Row], nights: set[date]) -> list[Row]:
    newest: dict[tuple[date, str], Row] = {}
    for run in sorted(runs, key=lambda run: run.finished_at):
        if run[schemas.RUN_DATE] in nights:
            newest[run[schemas.RUN_DATE], run[schemas.STAGE]] = run
    return list(newest.values())


def _published(lake: Lake) -> list[Row]:
    """Published nights, the live one first."""
    return lake.read(schemas.OPS_PUBLISHED).orderBy(F.desc(schemas.RUN_DATE)).collect()
