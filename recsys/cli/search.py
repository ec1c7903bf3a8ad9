"""`recsys search`: settings of a night's model, by many short trainings."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recsys.cli.options import read_settings
from recsys.config import conf_with, group_by_section, read_space
from recsys.files import write_atomically
from recsys.lake.operations import check_schema_version
from recsys.lake.session import build_session
from recsys.lake.tables import Lake
from recsys.steps.context import Context
from recsys.steps.search import Found, search_settings
from recsys.train.search import COMPLETE, FAILED, PRUNED, RUNNING, Trial

_COLOURS = {COMPLETE: "", PRUNED: "yellow", FAILED: "bold red", RUNNING: ""}


def search(options: argparse.Namespace) -> None:
    """``recsys search``"""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("py4j").setLevel(logging.WARNING)
    settings, log = read_settings(options)
    space = read_space(options.space, settings)
    lake = Lake(build_session(settings, f"recsys search {options.date}"), settings)
    context = Context(settings, log, options.date, lake)
    with lake.explain_damage():
        check_schema_version(lake)
        context.refresh()
        context.done("build_gold")
        print(f"search for the night of {options.date}, lake {settings.lake.root}", flush=True)
        found = search_settings(context, space, options.trials, options.timeout, _say)
    _print_found(found)
    if found.best is None:
        print("no trial was complete: widen the space, or see the reasons above")
        return
    print(f"trial {found.best.number} was best:\n")
    print(yaml.safe_dump(group_by_section(found.best.values), sort_keys=False))
    if options.out:
        conf = conf_with(options.conf, settings, found.best.values)
        text = f"# recsys search: {found.metric} {found.best.value:.5g}\n"
        text += yaml.safe_dump(conf, sort_keys=False)
        write_atomically(Path(options.out), text.encode())
        print(f"train with it: recsys nightly --conf {options.out} --date ...")


def _say(trial: Trial) -> None:
    if trial.state == RUNNING:
        values = " ".join(f"{key}={_short(value)}" for key, value in trial.values.items())
        print(f"  trial {trial.number:<3} {values}", flush=True)
    else:
        print(f"  trial {trial.number:<3} {_outcome(trial)}", flush=True)


def _outcome(trial: Trial) -> str:
    value = "" if trial.value is None else f" {trial.value:.4f}"
    trained = f", {trial.epochs} epochs, {trial.seconds:.1f} s" if trial.epochs else ""
    reason = f": {trial.reason}" if trial.reason else ""
    return f"{trial.state}{value}{trained}{reason}"


def _print_found(found: Found) -> None:
    """A row a trial, best first."""
    table = Table(title=f"{found.metric}, best first", title_justify="left")
    settings = list(found.ranked[0].values) if found.ranked else []
    short = [key.rpartition(".")[2] for key in settings]
    for name in ("trial", "outcome", "value", *short, "epochs", "seconds"):
        table.add_column(name, justify="left" if name == "outcome" else "right")
    for trial in found.ranked:
        value = "" if trial.value is None else f"{trial.value:.4f}"
        tried = [_short(trial.values.get(key)) for key in settings]
        cells = [str(trial.number), trial.state, value, *tried]
        cells += [str(trial.epochs), f"{trial.seconds:.1f}"]
        table.add_row(*map(Text, cells), style=_COLOURS[trial.state])
    Console().print(table)
    print(f"picture: {found.picture}")
    print(f"MLflow: run {found.run_id} of experiment {found.experiment} (recsys mlflow-ui)")


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
