"""Options that every command and every job understands, and how errors reach a person."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import date

from recsys.config import Settings, load_settings
from recsys.errors import ConfigError, RecsysError, first_line
from recsys.lake.formats import LogFormat, load_format

_OVERRIDE = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+=", re.ASCII)


def add_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add the named options (and always ``--conf``, ``--lake`` and overrides) to a parser."""
    parser.add_argument(
        "--conf",
        metavar="FILE",
        help="settings that differ from conf/base.yaml (default: conf/local.yaml)",
    )
    parser.add_argument("--lake", metavar="PATH", help="lake.root: where the tables lie")
    if "input" in names:
        parser.add_argument("--input", metavar="PATH", help="input.path: the raw logs")
        parser.add_argument(
            "--format",
            metavar="NAME",
            help="input.format: what the logs look like, a name in conf/formats or a .yaml file",
        )
    if "date" in names:
        parser.add_argument(
            "--date",
            metavar="YYYY-MM-DD",
            required=True,
            type=parse_date,
            help="the night's date: the last day whose events count",
        )
    if "table" in names:
        parser.add_argument(
            "--table", metavar="NAME", help="one table, e.g. gold/top_n (default: all of them)"
        )
    if "force" in names:
        parser.add_argument(
            "--force", action="store_true", help="do again what the same inputs have done before"
        )
    parser.epilog = (
        "Any setting can be given as section.key=value, e.g. train.max_epochs=5; "
        "`recsys config --reference` lists them."
    )


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse options; ``section.key=value`` may stand anywhere and lands in ``overrides``."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    overrides = [text for text in given if _OVERRIDE.match(text)]
    options = parser.parse_args([text for text in given if not _OVERRIDE.match(text)])
    options.overrides = overrides
    return options


def read_settings(arguments: argparse.Namespace) -> tuple[Settings, LogFormat]:
    """Settings from the files and options, and the log format that they name."""
    overrides = list(arguments.overrides)
    for option, key in (("lake", "lake.root"), ("input", "input.path"), ("format", "input.format")):
        value = getattr(arguments, option, None)
        if value is not None:
            # In quotes: YAML would read a folder named 2026-01-01 as a date.
            overrides.append(f"{key}={json.dumps(value, ensure_ascii=False)}")
    if getattr(arguments, "accept_schema", False):
        overrides.append("ingest.accept_schema=true")
    log = load_format(load_settings(arguments.conf, overrides).input.format)
    return load_settings(arguments.conf, overrides, log.settings), log


def run(main: Callable[[], None]) -> int:
    """Call ``main``; print an error meant for people without a stack trace. The exit code."""
    try:
        main()
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        _show_cause(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        _report_unforeseen(error)
        return 1
    return 0


def _show_cause(error: RecsysError) -> None:
    if os.environ.get("RECSYS_DEBUG"):
        traceback.print_exception(error)
    elif error.__cause__ is not None:
        print("  (RECSYS_DEBUG=1 shows the stack trace)", file=sys.stderr)


def _report_unforeseen(error: Exception) -> None:
    """Spark's errors are pages long, and what they mean to say stands in the first line."""
    if os.environ.get("RECSYS_DEBUG"):
        traceback.print_exception(error)
        return
    print(f"error: unforeseen {type(error).__name__}: {first_line(error)}", file=sys.stderr)
    print("  do:    run it again with RECSYS_DEBUG=1 for the stack trace", file=sys.stderr)


def parse_date(text: str, option: str = "--date") -> date:
    """A date from the command line, given with ``option``."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option}={text} is not a date", do="give YYYY-MM-DD") from None
