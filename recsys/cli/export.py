"""`recsys export`: the live lists into the targets of the settings, now."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from recsys.cli.job import run_steps
from recsys.cli.options import read_settings
from recsys.config import Settings
from recsys.errors import ConfigError
from recsys.lake.publish import live
from recsys.lake.session import build_session
from recsys.lake.tables import Lake
from recsys.steps.export import EXPORT


def export(options: argparse.Namespace) -> None:
    """``recsys export``: recorded as a step of ``--date``, or of the night that is live."""
    settings, log = read_settings(options)
    settings = only(settings, options.target)
    lake = Lake(build_session(settings, "recsys export"), settings)
    run_date = options.date or live(lake).run_date
    run_steps(settings, log, lake, run_date, [EXPORT], options.force)


def only(settings: Settings, names: Sequence[str] | None) -> Settings:
    """The settings with these targets alone; ``None``: with all.

    Raises:
        ConfigError: there is no target, or none of a name.
    """
    targets = settings.export.targets
    for name in names or ():
        if name not in targets:
            raise ConfigError(
                f"--target={name} is not among export.targets",
                do=f"known: {', '.join(targets) or 'none'}",
            )
    if not targets:
        raise ConfigError(
            "export.targets is empty, so there is nowhere to export to",
            do="name a target, as docs/export.md shows, and give its file with --conf",
        )
    chosen = {name: targets[name] for name in names or targets}
    export = settings.export.model_copy(update={"targets": chosen})
    return settings.model_copy(update={"export": export})
