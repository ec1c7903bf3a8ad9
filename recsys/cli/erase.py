"""`recsys erase`: users who ask to be forgotten."""

from __future__ import annotations

import argparse
from pathlib import Path

from recsys.cli.options import read_settings
from recsys.errors import InputError
from recsys.lake.erasure import check_quiet, erase_rows, find_users
from recsys.lake.proof import prove, purge
from recsys.lake.session import build_session
from recsys.lake.tables import Lake
from recsys.steps.forget import find_model_stores


def erase(options: argparse.Namespace) -> None:
    """``recsys erase USER …``: rows in models and tables, index, lists, old files; the proof."""
    settings, log = read_settings(options)
    lake = Lake(build_session(settings, "recsys erase"), settings)
    users = find_users(lake, _ids(options))
    if not options.force:
        check_quiet(lake)
    _say(f"erasing {len(users.raw)} users, {len(users.indices)} of them known")
    # Models first: once the tables have forgotten the users, nobody knows their indices any more.
    stores = find_model_stores(settings)
    if users.indices:
        stores.forget(users.indices, _say)
    erase_rows(lake, log, users, _say)
    purge(lake, _say)
    files, entries = prove(lake, log, users)
    models = stores.check(users.indices)
    _say(
        f"proof: {files:,} data files and {entries:,} log entries read, none holds an id; "
        f"{models} models with a row a user read, none knows one of them; "
        f"{len(users.indices)} indices will never be given again"
    )
    if settings.export.targets:
        _say(
            f"Exported copies still hold these users' lists: `recsys export "
            f"export.keep_versions=1` replaces them in {', '.join(settings.export.targets)} and "
            "removes all older versions there."
        )
    _say(
        "The raw logs that the lake was made from are not part of it: delete the users there too, "
        "or a new ingest of an old date brings them back."
    )


def _ids(options: argparse.Namespace) -> list[str]:
    ids = list(options.users)
    if options.users_file:
        try:
            ids += Path(options.users_file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                "the list of users can't be read", where=f"{options.users_file}: {error}"
            ) from None
    return ids


def _say(line: str) -> None:
    print(line, flush=True)
