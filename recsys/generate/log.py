"""Write a generated log: all of it, or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys.config import Generate
from recsys.errors import ConfigError, InputError
from recsys.generate.defects import check_rates, plant_defects
from recsys.generate.events import EVENTS_PER_STEP, list_events
from recsys.generate.folder import Folder
from recsys.generate.lines import FILE, FOLDER_DATE, LINE, count_lines, list_lines, order_lines
from recsys.generate.sessions import list_sessions
from recsys.generate.world import World, build_world, list_items, list_segments, list_users

MANIFEST = "_generated.json"
ITEMS_FILE = "items.tsv"
USERS_FILE = "users.tsv"

_WORLD_VERSION = 1  # raised when the same settings give other bytes
_MOST_EVENTS_A_DAY = 200


@dataclass(frozen=True)
class GeneratedLog:
    """A log on disk: where, whether this call wrote it, and what was planted (by kind)."""

    path: str
    created: bool
    counts: dict[str, int]


def generate_log(
    spark: SparkSession,
    settings: Generate,
    out: str,
    end_date: date,
    *,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> GeneratedLog:
    """Write ``settings.days`` days of logs that end with ``end_date``, with items and users.

    The bytes depend on the settings and the date alone. The log appears under ``out`` when it is
    complete; a log of the same settings that is already there is left as it is.

    Args:
        overwrite: replace a generated log of other settings (never a folder of something else).
        progress: called with a line for people at each stage.

    Raises:
        ConfigError: the settings contradict each other.
        InputError: ``out`` holds something else.
    """
    _check(settings)
    identity = _identify(settings, end_date)
    target = Folder(spark, out)
    known = _find_known(target, identity, overwrite)
    if known is not None:
        progress(f"{out} holds this log already")
        return GeneratedLog(out, False, known)
    draft = target.beside(f"_{target.name}.writing")
    draft.delete()
    try:
        draft.make()
    except OSError as error:
        raise InputError(
            f"can't write there: {error}", where=out, do="check the path and its permissions"
        ) from None
    try:
        world = build_world(settings, end_date)
        progress(f"writing about {settings.events} events of {settings.days} days to {out}")
        counts = _write_lines(spark, world, draft)
        progress(f"wrote {counts['lines']} lines; writing {settings.items} items")
        _write_table(spark, list_items(spark, world), draft, ITEMS_FILE)
        # In the order of their numbers, since no shuffle mixes them.
        users = list_segments(list_users(spark, world, EVENTS_PER_STEP), world)
        _write_table(spark, users, draft, USERS_FILE)
        manifest = {**identity, "counts": counts}
        draft.write(MANIFEST, json.dumps(manifest, indent=2, sort_keys=True) + "\n")
        target.delete()
        draft.move_to(target)
    except BaseException:
        draft.delete()
        raise
    return GeneratedLog(out, True, counts)


def _write_lines(spark: SparkSession, world: World, draft: Folder) -> dict[str, int]:
    sessions = list_sessions(spark, world, EVENTS_PER_STEP)
    events = plant_defects(list_events(sessions, world), world.settings)
    ordered = order_lines(list_lines(events, world), world)
    counted, observation = count_lines(ordered)
    _save_text(counted.select(FOLDER_DATE, FILE, LINE), draft.url, FOLDER_DATE, FILE)
    for day in [name for name in draft.list() if name.startswith(f"{FOLDER_DATE}=")]:
        for folder in draft.list(day):
            number = int(folder.removeprefix(f"{FILE}="))
            _take_out(draft, f"{day}/{folder}", f"{day}/part-{number:05d}.json.gz")
    return {name: int(count) for name, count in observation.get.items()}


def _write_table(spark: SparkSession, rows: DataFrame, draft: Folder, name: str) -> None:
    """One file with a header, columns apart by tabs."""
    lines = rows.select(F.concat_ws("\t", *rows.columns).alias(LINE))
    header = spark.range(1).select(F.lit("\t".join(rows.columns)).alias(LINE))
    _save_text(header.union(lines).coalesce(1), f"{draft.url}/{name}.draft", compressed=False)
    _take_out(draft, f"{name}.draft", name)


def _save_text(frame: DataFrame, url: str, *partitions: str, compressed: bool = True) -> None:
    writer = frame.write.option("compression", "gzip" if compressed else "none")
    writer.option("mapreduce.fileoutputcommitter.marksuccessfuljobs", "false")
    # A session that caps the records of a file would break the one file a folder.
    writer.option("maxRecordsPerFile", 0).partitionBy(*partitions)
    writer.mode("append").text(url)


def _take_out(draft: Folder, folder: str, name: str) -> None:
    """Give Spark's one file in ``folder`` a name without its random part."""
    parts = [part for part in draft.list(folder) if part.startswith("part-")]
    if len(parts) != 1:
        raise OSError(f"expected one file in {draft.url}/{folder}, found {parts}")
    draft.move(f"{folder}/{parts[0]}", name)
    draft.delete(folder)


def _check(settings: Generate) -> None:
    check_rates(settings)
    a_day = settings.events / settings.users / settings.days
    if a_day > _MOST_EVENTS_A_DAY:
        raise ConfigError(
            f"{a_day:.0f} events a user and day are more than people make",
            do=f"raise generate.users or generate.days (at most {_MOST_EVENTS_A_DAY})",
        )


def _identify(settings: Generate, end_date: date) -> dict[str, Any]:
    return {
        "world_version": _WORLD_VERSION,
        "end_date": str(end_date),
        "settings": settings.model_dump(mode="json"),
    }


def _find_known(target: Folder, identity: dict[str, Any], overwrite: bool) -> dict[str, int] | None:
    """Counts of the same log if it is there; ``None`` when it may be written."""
    if not target.exists() or not target.list():
        return None
    if not target.exists(MANIFEST):
        raise InputError(
            "the output folder holds something else than a generated log",
            where=target.url,
            do="choose an empty folder, or one that does not exist",
        )
    try:
        found = json.loads(target.read(MANIFEST))
        counts: dict[str, int] = found.pop("counts")
    except (ValueError, KeyError):
        raise InputError(
            "the manifest of the generated log is damaged",
            where=f"{target.url}/{MANIFEST}",
            do="delete the folder and generate the log again",
        ) from None
    if found == identity:
        return counts
    if overwrite:
        return None
    raise InputError(
        f"a log with other settings is already there: {_differ(found, identity)}",
        where=f"{target.url}/{MANIFEST}",
        do="choose another folder, or pass --overwrite to replace it",
    )


def _differ(found: dict[str, Any], asked: dict[str, Any]) -> str:
    old = {**found, **found.get("settings", {}), "settings": None}
    new = {**asked, **asked["settings"], "settings": None}
    changed = [name for name in new if old.get(name) != new[name]]
    return ", ".join(f"{name} is {old.get(name)}, asked for {new[name]}" for name in changed)
