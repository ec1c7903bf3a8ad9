"""Commands that run steps: nightly, demo, generate, and each step alone."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import date, timedelta

from recsys.cli.job import open_lake, run_steps
from recsys.cli.options import parse_date, read_settings
from recsys.cli.summary import print_summary
from recsys.config import conf_dir
from recsys.generate import generate_log
from recsys.lake.operations import newest_night
from recsys.lake.session import build_session
from recsys.lake.tables import Lake
from recsys.steps.context import Step
from recsys.steps.etl import BUILD_GOLD, BUILD_SILVER
from recsys.steps.night import ALL_STEPS

_DEMO_END = date(2026, 1, 3)
_DEMO_NIGHTS = 3


def nightly(options: argparse.Namespace) -> None:
    """``recsys nightly``"""
    lake = _run(options, _dates(options.date, options.nights), ALL_STEPS)
    if options.summary:
        print_summary(lake, _dates(options.date, options.nights))


def one_step(options: argparse.Namespace) -> None:
    """``recsys ingest`` and its like."""
    if getattr(options, "explain", False):
        from recsys.cli.explain import explain

        explain(options, options.date)
        return
    _run(options, [options.date], [step for step in ALL_STEPS if step.name == options.step])


def repair(options: argparse.Namespace) -> None:
    """``recsys repair``: silver of past nights from bronze, then gold of the newest night."""
    options.force = True
    lake = _run(options, _dates(options.date, options.nights), [BUILD_SILVER])
    newest = newest_night(lake, BUILD_GOLD.name)
    if newest is None:
        return
    settings, log = read_settings(options)
    run_steps(settings, log, lake, newest, [BUILD_GOLD])
    print(f"to train and publish on it: recsys nightly --date {newest}", flush=True)


def demo(options: argparse.Namespace) -> None:
    """``recsys demo``: what `make run` shows."""
    options.input, options.format = options.data, "generated"
    options.conf = options.conf or str(conf_dir() / "demo.yaml")
    settings, _ = read_settings(options)
    spark = open_lake(settings, "recsys demo", ALL_STEPS).spark
    generate_log(spark, settings.generate, options.data, _DEMO_END, progress=print)
    dates = _dates(_DEMO_END, _DEMO_NIGHTS)
    print_summary(_run(options, dates, ALL_STEPS), dates)


def generate(options: argparse.Namespace) -> None:
    """``recsys generate``"""
    settings, _ = read_settings(options)
    spark = build_session(settings, "recsys generate")
    generate_log(
        spark,
        settings.generate,
        options.out,
        parse_date(options.end_date),
        overwrite=options.overwrite,
        progress=print,
    )


def _dates(last: date, nights: int) -> list[date]:
    return [last - timedelta(days=back) for back in reversed(range(nights))]


def _run(options: argparse.Namespace, dates: Sequence[date], steps: Sequence[Step]) -> Lake:
    settings, log = read_settings(options)
    lake = open_lake(settings, f"recsys {options.name} {dates[-1]}", steps)
    for run_date in dates:
        run_steps(settings, log, lake, run_date, steps, options.force)
    return lake
