"""`recsys lake ...`: how the tables are, and keeping them in shape."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table as Grid

from recsys import schemas
from recsys.cli.options import add_options, parse, read_settings, run
from recsys.errors import LakeError
from recsys.lake.compaction import compact as compact_table
from recsys.lake.compaction import plan_compaction
from recsys.lake.doctor import Health, Problem, examine
from recsys.lake.in_use import began_under_way, find_pins, kept_nights
from recsys.lake.leftovers import find_leftovers, remove_leftovers
from recsys.lake.migrations import migrate as run_migration
from recsys.lake.migrations import pending
from recsys.lake.retention import delete_expired, find_expired, retention_days
from recsys.lake.session import build_session
from recsys.lake.table_files import live_files
from recsys.lake.tables import Lake
from recsys.lake.vacuum import plan_vacuum, run_vacuum
from recsys.schemas import Table


def doctor(options: argparse.Namespace) -> None:
    """``recsys lake doctor``: exit code 1 where something is wrong."""
    lake = _open(options)
    healths, whole = examine(lake, _chosen(options), datetime.now(UTC))
    wrong = [(health.table, problem) for health in healths for problem in health.problems]
    wrong += [("the lake", problem) for problem in whole]
    if options.json:
        print(json.dumps(_as_json(healths, whole)))
    else:
        console = Console(width=None if Console().is_terminal else 200)
        console.print(_grid(healths))
        for command in (command for health in healths for command in health.do):
            line = f"  {command} --lake {shlex.quote(lake.settings.lake.root)}"
            console.print(line, soft_wrap=True, markup=False, highlight=False)
        for name, problem in wrong:
            console.print(f"{name}: {problem.what}", style="red", soft_wrap=True, markup=False)
            console.print(f"  do: {problem.do}", soft_wrap=True, markup=False)
    if wrong:
        sys.exit(1)


def compact(options: argparse.Namespace) -> None:
    """``recsys lake compact``"""
    lake = _open(options)
    for table in _existing(lake, options):
        plan = plan_compaction(lake, table, live_files(lake, table))
        files = sum(work.files for work in plan)
        if not plan:
            _say(f"  {table.name:<24} nothing to do")
        elif options.dry_run:
            parts = sum(len(work.partitions) for work in plan)
            _say(f"  {table.name:<24} would compact {files} small files of {parts} partitions")
        else:
            done = compact_table(lake, table, plan, _say)
            rest = "; a running night won, the rest waits" if done.lost_to_others else ""
            _say(f"  {table.name:<24} {done.removed} files became {done.added}{rest}")


def retention(options: argparse.Namespace) -> None:
    """``recsys lake retention``"""
    lake = _open(options)
    for table in _existing(lake, options):
        days = retention_days(lake.settings, table)
        if days is None:
            _say(f"  {table.name:<24} kept for ever")
            continue
        expired = find_expired(lake, table, live_files(lake, table))
        if not options.dry_run:
            delete_expired(lake, table, expired)
        verb = "would delete" if options.dry_run else "deleted"
        span = f" ({expired.dates[0]} to {expired.dates[-1]})" if expired.dates else ""
        _say(
            f"  {table.name:<24} {days} days kept: {verb} {len(expired.dates)} dates{span}, "
            f"{expired.rows:,} rows"
        )


def vacuum(options: argparse.Namespace) -> None:
    """``recsys lake vacuum``: files of old versions, and what old nights left beside the tables."""
    lake = _open(options)
    now = datetime.now(UTC)
    pins, running = find_pins(lake), began_under_way(lake, now)
    if running is not None:
        _say(f"  a night seems to run since {running:%Y-%m-%d %H:%M} UTC: what is younger stays")
    broken = []
    for table in _existing(lake, options):
        plan = plan_vacuum(lake, table, pins, now, running)
        broken += [f"{table.name} version {v} ({why})" for v, why in plan.broken.items()]
        kept = ", ".join(str(v) for v in plan.pinned if v < plan.keep_from)
        kept = f"keeps versions from {plan.keep_from}{f' and {kept}' if kept else ''}"
        if options.dry_run:
            size = _size(plan.removable_bytes)
            _say(f"  {table.name:<24} would free {size}, {len(plan.removable)} files; {kept}")
            continue
        done = run_vacuum(lake, plan)
        checked = f"; {done.checked} of them checked, whole" if done.checked else ""
        _say(f"  {table.name:<24} freed {_size(done.bytes)}, {done.files} files; {kept}{checked}")
    if options.table is None:
        left = find_leftovers(lake.settings, kept_nights(lake), now)
        verb = "would remove" if options.dry_run else "removed"
        size = "" if options.dry_run else f", {_size(remove_leftovers(left))}"
        _say(f"  {'beside the tables':<24} {verb} {len(left)} old checkpoints and half files{size}")
    if broken:
        raise LakeError(
            f"versions in use can't be read any more: {'; '.join(broken)}",
            where=lake.settings.lake.root,
            do="recsys lake doctor; they were so before, vacuum removed nothing of them",
        )


def migrate(options: argparse.Namespace) -> None:
    """``recsys lake migrate``"""
    lake = _open(options)
    steps = pending(lake)
    for step in steps:
        _say(f"  to version {step.version}: {step.what}")
        if not options.dry_run:
            run_migration(lake, step)
    if not steps:
        _say(f"  the lake has version {schemas.SCHEMA_VERSION}: nothing to do")


def housekeeping(arguments: Sequence[str] | None = None) -> None:
    """What jobs/housekeeping.py runs: retention, compact, vacuum, doctor; exit code of the last."""
    parser = argparse.ArgumentParser(description="retention, compaction and vacuum of every table")
    add_options(parser)
    parser.set_defaults(name="housekeeping", table=None, dry_run=False, json=False)

    def body() -> None:
        options = parse(parser, arguments)
        steps: tuple[Callable[[argparse.Namespace], None], ...]
        steps = (retention, compact, vacuum, doctor)
        for step in steps:
            _say(step.__name__)
            step(options)

    sys.exit(run(body))


def _open(options: argparse.Namespace) -> Lake:
    settings, _ = read_settings(options)
    _chosen(options)
    return Lake(build_session(settings, f"recsys {options.name}"), settings)


def _chosen(options: argparse.Namespace) -> list[Table]:
    named = [t for t in schemas.TABLES if options.table in (None, t.name)]
    if not named:
        raise LakeError(
            f"there is no table {options.table}",
            do=f"one of {', '.join(table.name for table in schemas.TABLES)}",
        )
    return named


def _existing(lake: Lake, options: argparse.Namespace) -> list[Table]:
    return [table for table in _chosen(options) if lake.exists(table)]


def _say(line: str) -> None:
    print(line, flush=True)


def _as_json(healths: Sequence[Health], whole: Sequence[Problem]) -> dict[str, object]:
    return {
        "tables": [dataclasses.asdict(health) for health in healths],
        "problems": [dataclasses.asdict(problem) for problem in whole],
    }


def _grid(healths: Sequence[Health]) -> Grid:
    grid = Grid(title="Tables of the lake", title_justify="left")
    grid.add_column("table")
    for name in (
        "rows", "live", "on disk", "files", "mean file", "row groups", "small", "skew",
        "versions", "deleted", "vacuum frees",
    ):  # fmt: skip
        grid.add_column(name, justify="right")
    grid.add_column("what to do")
    for health in healths:
        grid.add_row(*_cells(health), style="red" if health.problems else None)
    return grid


def _cells(health: Health) -> list[str]:
    if health.version < 0:
        wrong = health.problems[0].what if health.problems else "not written yet"
        return [health.table, *[""] * 11, wrong]
    sampled = "~" if health.footers_read < health.files else ""
    todo = ["see below"] if health.problems else []
    todo += [command.split()[2] for command in health.do]
    return [
        health.table,
        "?" if health.rows is None else f"{health.rows:,}",
        _size(health.live_bytes),
        _size(health.stored_bytes),
        f"{health.files:,}",
        _size(health.live_bytes // max(1, health.files)),
        f"{sampled}{health.row_groups:,}",
        f"{health.small_files:,}",
        f"{health.skew:.1f}×",
        f"{health.oldest}{'' if health.oldest_readable else ' (gone)'} – {health.version}",
        f"{health.deleted_share:.0%}",
        _size(health.removable_bytes),
        ", ".join(todo) or "nothing",
    ]


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
