"""What each file in jobs/ calls: options, session, one step, exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import date

from recsys.cli.options import add_options, parse, read_settings, run
from recsys.config import Settings
from recsys.lake.formats import LogFormat
from recsys.lake.operations import StageRun
from recsys.lake.session import build_session
from recsys.lake.tables import Lake
from recsys.steps.context import Context, Step
from recsys.steps.runner import run_night


def main(step: Step, arguments: Sequence[str] | None = None) -> None:
    """Run one step for one date and exit, as ``spark-submit jobs/STEP.py --date D`` does."""
    parser = argparse.ArgumentParser(description=step.summary)
    add_options(parser, "input", "date", "force")

    def body() -> None:
        options = parse(parser, arguments)
        settings, log = read_settings(options)
        if not step.wanted(settings):
            print(f"{step.name}: the settings ask for nothing ({', '.join(step.sections)})")
            return
        lake = open_lake(settings, f"recsys {step.name} {options.date}", [step])
        run_steps(settings, log, lake, options.date, [step], options.force)

    sys.exit(run(body))


def open_lake(settings: Settings, name: str, steps: Sequence[Step]) -> Lake:
    """The lake in a Spark session that suits the steps."""
    daemons = [step.python_daemon for step in steps if step.python_daemon]
    return Lake(build_session(settings, name, daemons[0] if daemons else None), settings)


def run_steps(
    settings: Settings,
    log: LogFormat,
    lake: Lake,
    run_date: date,
    steps: Sequence[Step],
    force: bool = False,
) -> dict[str, StageRun]:
    """Run steps of one night with a line of output each."""
    context = Context(
        settings, log, run_date, lake, force, say=lambda line: print(line, flush=True)
    )
    context.say(f"night of {run_date}, lake {settings.lake.root}")
    return run_night(context, steps)
