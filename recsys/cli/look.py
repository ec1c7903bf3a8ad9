"""Commands that look and change nothing: summary, checks, top-n, runs, config, mlflow-ui."""

from __future__ import annotations

import argparse
import json
import os
import sys

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recsys import schemas
from recsys.cli.options import read_settings
from recsys.config import Settings, describe_settings


def summary(options: argparse.Namespace) -> None:
    """``recsys summary``"""
    from recsys.cli.summary import print_summary

    print_summary(_open_lake(options), [options.date])


def top_n(options: argparse.Namespace) -> None:
    """``recsys top-n``: the live list of one user, looked up through the pseudonym."""
    from pyspark.sql import functions as F

    from recsys.errors import InputError
    from recsys.lake.pseudonyms import check_key, load_key, pseudonym
    from recsys.lake.publish import live, live_lists

    lake = _open_lake(options)
    night = live(lake)
    user_id = options.user
    if not options.pseudonym:
        key = load_key(lake.settings)
        check_key(lake, key)
        user_id = pseudonym(key, options.user)
    found = live_lists(lake).where(F.col(schemas.USER_ID) == user_id).first()
    if found is None:
        raise InputError(
            f"user {options.user} has no published list",
            where=f"{lake.path(schemas.GOLD_TOP_N)}, night of {night.run_date}",
            do="the user is not in the log up to that night, or the id is written in another way",
        )
    shown = [entry.asDict() for entry in found[schemas.RECOMMENDATIONS]]
    if options.json:
        line = {
            schemas.RUN_DATE: str(night.run_date),
            schemas.USER_ID: user_id,
            schemas.MODEL_VERSION: found[schemas.MODEL_VERSION],
            schemas.RECOMMENDATIONS: shown,
        }
        print(json.dumps(line))
        return
    ids = [entry[schemas.ITEM_ID] for entry in shown]
    items = lake.read(schemas.SILVER_ITEMS).where(F.col(schemas.ITEM_ID).isin(ids)).collect()
    titles = {row[schemas.ITEM_ID]: row[schemas.TITLE] or "" for row in items}
    table = Table(
        title=f"user {options.user}, night of {night.run_date}, model version "
        f"{found[schemas.MODEL_VERSION]}",
        title_justify="left",
    )
    for name in (schemas.RANK, schemas.ITEM_ID, schemas.TITLE, schemas.SCORE, schemas.REASON):
        table.add_column(name)
    for entry in shown:
        item_id = entry[schemas.ITEM_ID]
        table.add_row(
            str(entry[schemas.RANK]),
            item_id,
            titles.get(item_id, ""),
            f"{entry[schemas.SCORE]:.3f}",
            entry[schemas.REASON],
        )
    Console().print(table)


def checks(options: argparse.Namespace) -> None:
    """``recsys checks``"""
    from recsys.checks import GREEN, RED, YELLOW
    from recsys.errors import LakeError
    from recsys.lake.quality import read_checks

    lake = _open_lake(options)
    found = read_checks(lake, options.date)
    if options.table:
        found = [result for result in found if result.table == options.table]
    if not found:
        raise LakeError(
            f"no check of {options.table or 'any table'} is known for {options.date}",
            where=lake.path(schemas.OPS_CHECKS),
            do="check --date, --table and --lake; checks run after each step of a night",
        )
    table = Table(title=f"Quality checks, night of {options.date}", title_justify="left")
    for name in ("stage", "table", "version", "check", "status", "found", "allowed"):
        table.add_column(name)
    colours = {GREEN: "green", YELLOW: "yellow", RED: "bold red"}
    for result in found:
        table.add_row(
            result.stage, result.table, str(result.table_version), result.check,
            Text(result.status, style=colours[result.status]), result.message, result.limit,
        )  # fmt: skip
    Console(width=None if Console().is_terminal else 200).print(table)
    if any(result.status == RED for result in found):
        sys.exit(1)


def runs(options: argparse.Namespace) -> None:
    """``recsys runs``"""
    from recsys.steps.tracking import open_tracking

    settings, _ = read_settings(options)
    found = open_tracking(settings).list_runs(options.limit)
    table = Table(title=f"last runs of {settings.tracking.experiment}", title_justify="left")
    metrics = {
        "epochs": "epochs",
        "NDCG@10": "ndcg_at_10",
        "popularity": "popularity_ndcg_at_10",
        "item-item": "item_item_ndcg_at_10",
        "ALS": "spark_als_ndcg_at_10",
        "HR@10": "hr_at_10",
        "coverage@10": "coverage_at_10",
        "events/s": "events_per_second",
    }
    for name in ("night", "version", "status", "seconds", *metrics, "run"):
        table.add_column(name)
    for run in found:
        version = f"{run['version']} {run['alias']}".strip() or run["tags"].get("training", "")
        values = [_cell(run["metrics"].get(key)) for key in metrics.values()]
        table.add_row(
            run["run_date"], version, run["status"].lower(), _cell(run["seconds"]), *values,
            run["run_id"][:8],
        )  # fmt: skip
    Console(width=None if Console().is_terminal else 160).print(table)


def config(options: argparse.Namespace) -> None:
    """``recsys config``"""
    if options.reference:
        print(config_reference(), end="")
        return
    settings, _ = read_settings(options)
    yaml.safe_dump(settings.model_dump(mode="json"), sys.stdout, sort_keys=False)


def config_reference() -> str:
    """The table of settings in docs/configuration.md."""
    lines = ["| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
    for key, kind, default, meaning in describe_settings():
        kind = kind.replace("|", "\\|")
        lines.append(f"| `{key}` | {kind} | `{json.dumps(default)}` | {meaning} |")
    return "\n".join(lines) + "\n"


def mlflow_ui(options: argparse.Namespace) -> None:
    """``recsys mlflow-ui``: replaces this process by MLflow's server."""
    from recsys.steps.tracking import tracking_uri

    settings, _ = read_settings(options)
    uri = tracking_uri(settings)
    print(f"MLflow on http://127.0.0.1:{options.port} (Ctrl-C ends it), store {uri}", flush=True)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri]
    os.execv(sys.executable, [*command, "--host", "127.0.0.1", "--port", str(options.port)])


def _open_lake(options: argparse.Namespace):  # type: ignore[no-untyped-def]
    from recsys.lake.session import build_session
    from recsys.lake.tables import Lake

    settings: Settings
    settings, _ = read_settings(options)
    return Lake(build_session(settings, f"recsys {options.name}"), settings)


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.4f}"
