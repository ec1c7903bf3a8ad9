"""`recsys rollback`: the lists and the model of an earlier night, live again."""

from __future__ import annotations

import argparse
import dataclasses

from recsys.cli.options import parse_date, read_settings
from recsys.errors import TrackingError
from recsys.lake.publish import roll_back
from recsys.lake.session import build_session
from recsys.lake.tables import Lake
from recsys.steps.tracking import open_tracking


def rollback(options: argparse.Namespace) -> None:
    """``recsys rollback``: first the lists, which users see, then the champion's alias."""
    settings, _ = read_settings(options)
    lake = Lake(build_session(settings, "recsys rollback"), settings)
    to = parse_date(options.to, "--to") if options.to else None
    with lake.explain_damage():
        was, now = roll_back(lake, to)
    if was == now:
        print(f"the lists of {now.run_date} are live already", flush=True)
    else:
        print(
            f"live: {now.lists:,} lists of {now.run_date} by model version {now.model_version} "
            f"(before: {was.run_date}, version {was.model_version})",
            flush=True,
        )
    if settings.export.targets:
        print(
            f"consumers keep the lists they have until `recsys export` puts these into "
            f"{', '.join(settings.export.targets)}",
            flush=True,
        )
    registry = dataclasses.replace(open_tracking(settings), model_name=now.model_name)
    try:
        registry.promote(now.model_version)
    except TrackingError as error:
        raise TrackingError(
            f"the lists are live, but the champion is not moved: {error.what}",
            where=error.where,
            do=f"run this again when MLflow can be reached; the next night would be compared with "
            f"the champion as it is, not with version {now.model_version}",
        ) from error
    print(f"champion: version {now.model_version} of {now.model_name}", flush=True)
