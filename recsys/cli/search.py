"""`recsys search`: settings of a night's model, by many short trainings."""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recsys.cli.options import read_settings
from recsys.config import conf_with, group_by_section, read_space
from recsys.lake.operations import check_schema_version
from recsys.lake.session import build_session
from recsys.lake.tables import Lake
from recsys.steps.context import Context
from recsys.steps.search import Found, search_settings
from recsys.train.search import COMPLETE, FAILED, PRUNED, RUNNING, Trial

_COLOURS = {COMPLETE: "", PRUNED: "yellow", FAILED: "bold red", RUNNING: ""}


def search(options: argparse.Namespace) -> None:
    """``recsys search``"""
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
        path = Path(options.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"train with it: recsys nightly --conf {options.out} --date ...")


def _say(trial: Trial) -> None:
    if trial.state == RUNNING:
        print(f"  trial {trial.number:<3} {_tried(trial)}", flush=True)
    else:
        print(f"            {_outcome(trial)}", flush=True)


def _outcome(trial: Trial) -> str:
    value = "" if trial.value is None else f" {trial.value:.4f}"
    trained = f", {trial.epochs} epochs, {trial.seconds:.1f} s" if trial.epochs else ""
    reason = f": {trial.reason}" if trial.reason else ""
    return f"{trial.state}{value}{trained}{reason}"


def _print_found(found: Found) -> None:
    """A row a trial, best first."""
    table = Table(title=f"{found.metric}, best first", title_justify="left")
    for name in ("trial", "outcome", "value", "epochs", "seconds"):
        table.add_column(name, justify="left" if name == "outcome" else "right", no_wrap=True)
    table.add_column("settings")
    for trial in found.ranked:
        value = "" if trial.value is None else f"{trial.value:.4f}"
        cells = [str(trial.number), trial.state, value, str(trial.epochs), f"{trial.seconds:.1f}"]
        table.add_row(*map(Text, [*cells, _tried(trial)]), style=_COLOURS[trial.state])
    Console().print(table)
    print(f"picture: {found.picture}")
    print(f"MLflow: run {found.run_id} of experiment {found.experiment} (recsys mlflow-ui)")


def _tried(trial: Trial) -> str:
    return " ".join(f"{key}={value}" for key, value in trial.values.items())
