"""What nights did, as tables in the terminal: counts, seconds, metrics, some lists."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from pyspark.sql import functions as F
from rich.console import Console
from rich.table import Table

from recsys import schemas
from recsys.errors import LakeError
from recsys.lake.operations import SUCCEEDED, StageRun, caught_up_by, read_night
from recsys.lake.publish import live, live_lists
from recsys.lake.tables import Lake
from recsys.steps import ETL, OPTIONAL, SUMMARIES

_USERS_SHOWN = 5
_ITEMS_SHOWN = 8


def print_summary(lake: Lake, dates: Sequence[date]) -> None:
    """Print the tables of the given nights and, of the last one, metrics and lists."""
    nights = {day: read_night(lake, day).runs for day in dates}
    if not any(nights.values()):
        raise LakeError(f"no night {dates[-1]} in this lake", where=lake.settings.lake.root)
    for day, runs in nights.items():
        stages = ETL if caught_up_by(runs) else SUMMARIES
        needed = [stage for stage in stages if stage in runs or stage not in OPTIONAL]
        missing = [s for s in needed if s not in runs or runs[s].status != SUCCEEDED]
        if missing:
            raise LakeError(
                f"the night of {day} is not complete: {missing[0]} has not succeeded",
                where=lake.settings.lake.root,
                do=f"recsys nightly --date {day} goes on where it stopped",
            )
    console = Console(width=None if Console().is_terminal else 120)
    console.print(_counts(nights))
    console.print(_seconds(nights))
    later = caught_up_by(nights[dates[-1]])
    if later:
        console.print(f"The night of {later} has read all events up to {dates[-1]}: look at it.")
        return
    console.print(_metrics(nights[dates[-1]]["evaluate"]))
    console.print(_lists(lake))
    root = lake.settings.lake.root
    console.print("Look further:")
    for command, what in (
        (f"recsys mlflow-ui --lake {root}", "runs, curves and models in the browser"),
        (f"recsys top-n USER --lake {root}", "what a user sees, by the log's user id"),
        (f"recsys runs --lake {root}", "the last models side by side"),
    ):
        console.print(f"  .venv/bin/{command:<42} {what}", highlight=False, soft_wrap=True)
    live_night = live(lake)
    console.print(
        f"  any Delta reader: {lake.path(schemas.GOLD_TOP_N)} at version "
        f"{live_night.top_n_version}, run_date = {live_night.run_date}",
        highlight=False,
        soft_wrap=True,
    )


def _counts(nights: dict[date, dict[str, StageRun]]) -> Table:
    names = ("read", "events", "duplicates", "rejects", "late", "new_users", "new_items")
    table = Table(title="Records", title_justify="left")
    for name in ("night", *(name.replace("_", " ") for name in names), "lists"):
        table.add_column(name, justify="right")
    for day, runs in nights.items():
        silver = runs["build_silver"].details
        counts = [f"{int(silver[name]):,}" for name in names]
        lists = runs["publish"].rows_out if "publish" in runs else 0
        table.add_row(str(day), *counts, f"{lists:,}")
    return table


def _seconds(nights: dict[date, dict[str, StageRun]]) -> Table:
    table = Table(title="Seconds a stage", title_justify="left")
    stages = [name for name in SUMMARIES if any(name in runs for runs in nights.values())]
    for name in ("night", *stages, "all"):
        table.add_column(name, justify="right")
    for day, runs in nights.items():
        seconds = [runs[name].seconds if name in runs else 0.0 for name in stages]
        table.add_row(str(day), *(f"{s:.1f}" for s in seconds), f"{sum(seconds):.1f}")
    return table


def _metrics(run: StageRun) -> Table:
    figures = run.details
    users = figures["users"]
    title = f"Hold-out of {run.run_date}: {users} users, intervals by bootstrap (95%)"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in ("NDCG@10", "interval", "HR@10", "coverage@10", "novelty@10 (bits)"):
        table.add_column(name, justify="right")
    for name in figures["models"].split():
        low, high = figures[f"{name} interval"].split()
        table.add_row(
            name,
            figures[f"{name} ndcg_at_10"],
            f"{low} – {high}",
            figures[f"{name} hr_at_10"],
            figures[f"{name} coverage_at_10"],
            figures[f"{name} novelty_at_10"],
        )
    table.caption = f"gate: {figures['gate']}; champion is version {figures['champion_version']}"
    if "rules price" in figures:
        low, high = figures["rules price interval"].split()
        table.caption += f"\nrules cost {figures['rules price']} of NDCG@10 ({low} – {high})"
    table.caption_justify = "left"
    return table


def _lists(lake: Lake) -> Table:
    table = Table(title="Lists that are live", title_justify="left", show_lines=True)
    table.add_column("user (pseudonym)")
    table.add_column(f"first {_ITEMS_SHOWN} items")
    titles = lake.read(schemas.SILVER_ITEMS).select(schemas.ITEM_ID, schemas.TITLE)
    some = live_lists(lake).orderBy(schemas.USER_ID).limit(_USERS_SHOWN)
    entries = some.select(schemas.USER_ID, F.explode(schemas.RECOMMENDATIONS).alias("e"))
    rows = (
        entries.select(schemas.USER_ID, "e.*")
        .where(F.col(schemas.RANK) <= _ITEMS_SHOWN)
        .join(titles, schemas.ITEM_ID, "left")
        .orderBy(schemas.USER_ID, schemas.RANK)
        .collect()
    )
    lists: dict[str, list[str]] = {}
    for row in rows:
        title = row[schemas.TITLE] or row[schemas.ITEM_ID]
        lists.setdefault(row[schemas.USER_ID], []).append(title)
    for user, items in lists.items():
        table.add_row(user[:12] + "…", " · ".join(items))
    return table
