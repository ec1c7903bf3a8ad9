"""The command `recsys`: the night and its steps by hand, and looking at what is there."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TypeAlias

from recsys import __version__
from recsys.cli.options import add_options, parse, parse_date, run
from recsys.steps import SUMMARIES

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

LAKE_COMMANDS = {
    "doctor": "each table's size, files, row groups, skew, versions, and what to do",
    "compact": "make few large files of many small ones; no row changes",
    "vacuum": "remove files of old versions, but of none that is in use, and old checkpoints",
    "migrate": "bring the tables of an older version of this project up to this one",
    "retention": "delete partitions older than the days that a table keeps",
}

_EXPLAINED = {
    "train": "memory, traffic and seconds an epoch, from a few timed steps; trains nothing",
    "score_users": "memory and seconds, exactly and approximately, from small runs, and which of "
    "both score.method=auto takes, and why; makes no lists",
}
"""Steps that can say what they would take, and how."""

_ALIASES = {"score-users": ("score",)}

_EPILOG = """\
examples:
  recsys demo                                        three nights on generated logs
  recsys nightly --input logs --format generated --date 2026-01-03 --lake /data/lake
  recsys top-n 196 --lake /data/lake                 what a user sees, by the log's user id
  recsys runs --lake /data/lake                      the last models side by side
  recsys export --conf mine.yaml --target shop       the live lists into a target, again
  recsys rollback --lake /data/lake                  the lists and the model of the night before
  recsys lake doctor --lake /data/lake               how the tables are, and what to do
  recsys benchmark sequences beauty.txt              how good the model is, on published data
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""

    def body() -> None:
        options = parse(_build_parser(), arguments)
        options.command(options)

    sys.exit(run(body))


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recsys",
        description="A nightly batch recommender: raw logs in, published top-N lists out.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, summary: str, module: str, *options: str) -> argparse.ArgumentParser:
        return _add(commands, name, summary, module, *options)

    night = add("nightly", "all steps of a night", "night", "input", "date", "force")
    _add_nights(night)
    night.add_argument("--summary", action="store_true", help="end with a summary of the nights")
    _add_accept(night)
    demo = add("demo", "generate logs and run three nights on them", "night", "force")
    demo.add_argument(
        "--data",
        metavar="PATH",
        default="./data/generated",
        help="where the generated logs go (default: ./data/generated)",
    )
    logs = add("generate", "write a behaviour log with the defects of real ones", "night")
    logs.add_argument("--out", metavar="PATH", required=True, help="folder to write")
    logs.add_argument(
        "--end-date",
        metavar="YYYY-MM-DD",
        default="2026-01-03",
        help="last day of the log (default: 2026-01-03)",
    )
    logs.add_argument("--overwrite", action="store_true", help="replace another log there")
    for step, summary in SUMMARIES.items():
        if step == "export":
            _add_export(add, summary)
            continue
        command = add(step.replace("_", "-"), summary, "night", "input", "date", "force")
        command.set_defaults(command=_lazy("night", "one_step"), step=step)
        if step == "ingest":
            _add_accept(command)
        if step in _EXPLAINED:
            command.add_argument("--explain", action="store_true", help=_EXPLAINED[step])
    again = add("repair", "build nights again from bronze, and what follows them", "night", "date")
    _add_nights(again)
    again.add_argument("--format", metavar="NAME", help="input.format of these nights' logs")
    _add_search(add)
    back = add("rollback", "make an earlier night's lists and model live again", "rollback")
    back.add_argument(
        "--to", metavar="YYYY-MM-DD", help="the night (default: the one published before)"
    )
    _add_erase(add)
    add("summary", "what a night did, its figures and some lists", "look", "date")
    quality = add(
        "checks", "the quality checks of a night; exits with 1 where one is red", "look", "date"
    )
    quality.add_argument("--table", metavar="NAME", help="of this table alone, e.g. silver/events")
    user = add("top-n", "the published list of one user", "look")
    user.add_argument("user", metavar="USER", help="user id as the log writes it")
    user.add_argument("--pseudonym", action="store_true", help="USER is a pseudonym already")
    user.add_argument("--json", action="store_true", help="a line of JSON instead of a table")
    models = add("runs", "the last training runs side by side", "look")
    models.add_argument("--limit", type=_positive, default=10, help="how many (default: 10)")
    settings = add("config", "the settings in force", "look", "input")
    settings.add_argument(
        "--reference", action="store_true", help="every setting: type, default, meaning (Markdown)"
    )
    page = add("mlflow-ui", "MLflow's page on the runs and models of a lake", "look")
    page.add_argument("--port", type=int, default=5000, help="of this machine (default: 5000)")
    summary = "compile for this processor what ranks lists: for images and archives of clusters"
    warm = commands.add_parser("warm-up", help=summary, description=summary)
    warm.set_defaults(command=_lazy("warm_up", "warm_up"), name="warm-up")
    _add_lake(commands)
    _add_benchmark(commands)
    return parser


def _add_nights(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--nights",
        type=_positive,
        default=1,
        metavar="N",
        help="so many consecutive nights, the last one on --date (a backfill)",
    )


def _add_export(add: Callable[..., argparse.ArgumentParser], summary: str) -> None:
    export = add("export", summary, "export", "force")
    export.add_argument(
        "--date",
        metavar="YYYY-MM-DD",
        type=parse_date,
        help="the night that this is recorded for (default: the one whose lists are live)",
    )
    export.add_argument(
        "--target",
        metavar="NAME",
        action="append",
        help="of export.targets, may be given several times (default: all of them)",
    )


def _add_search(add: Callable[..., argparse.ArgumentParser]) -> None:
    summary = "try many settings of a night's model, and keep the best by validation"
    search = add("search", summary, "search", "date")
    search.add_argument(
        "--trials",
        type=_positive,
        default=20,
        metavar="N",
        help="trainings in all, those of an earlier, same command included (default: 20)",
    )
    search.add_argument(
        "--space",
        metavar="FILE",
        default="search.yaml",
        help="YAML: what to try (default: conf/search.yaml)",
    )
    search.add_argument(
        "--timeout", type=_positive, metavar="SECONDS", help="begin no trial after so long"
    )
    search.add_argument(
        "--out", metavar="FILE", help="write the best settings here, to be used with --conf"
    )


def _add_erase(add: Callable[..., argparse.ArgumentParser]) -> None:
    erase = add("erase", "remove users from every table, file and published list", "erase")
    erase.add_argument("users", metavar="USER", nargs="*", help="user ids as the log writes them")
    erase.add_argument("--users-file", metavar="FILE", help="a text file with an id a line")
    erase.add_argument("--format", metavar="NAME", help="input.format of the logs in bronze")
    erase.add_argument(
        "--force", action="store_true", help="also while a night seems to run (it surely does not)"
    )


def _add_accept(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--accept-schema",
        action="store_true",
        help="ingest.accept_schema=true: take a log that lost a column or changed its type",
    )


def _add(
    commands: _Commands, name: str, summary: str, module: str, *options: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name, help=summary, description=summary, aliases=_ALIASES.get(name, ())
    )
    add_options(command, *options)
    command.set_defaults(command=_lazy(module, name.replace("-", "_")), name=name)
    return command


def _add_lake(commands: _Commands) -> None:
    """``recsys lake ...``: what the tables are like, and what keeps them in shape."""
    summary = "look at the tables, and keep them in shape"
    group = commands.add_parser("lake", help=summary, description=summary)
    group.epilog = "`recsys lake COMMAND --help` says more; settings are section.key=value."
    inner = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, summary in LAKE_COMMANDS.items():
        command = _add(inner, name, summary, "lake", "table")
        if name == "doctor":
            command.add_argument("--json", action="store_true", help="JSON instead of a table")
        else:
            command.add_argument("--dry-run", action="store_true", help="only say what it would do")


def _add_benchmark(commands: _Commands) -> None:
    """``recsys benchmark ...``: how good the models are, by the protocols of the literature."""
    summary = "train and test on published data, by its protocol"
    group = commands.add_parser("benchmark", help=summary, description=summary)
    group.epilog = "`recsys benchmark COMMAND --help` says more; settings are section.key=value."
    inner = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    summary = "leave-one-out on a file with a user's items a line; prints a line of JSON"
    command = inner.add_parser("sequences", help=summary, description=summary)
    command.add_argument("file", metavar="FILE", help="each line: user item item ..., oldest first")
    command.add_argument("--attributes", metavar="FILE", help="JSON: item to a list of attributes")
    command.add_argument(
        "--baselines", action="store_true", help="also popularity, item-item and Spark ALS"
    )
    command.add_argument(
        "--work",
        metavar="PATH",
        help="keep windows, checkpoints and the model here, and go on from what is there",
    )
    _add_recipe(command, "sequences")
    summary = "train with 1, 2, ... ranks; prints a line of JSON for each, and draws the speed"
    command = inner.add_parser("scaling", help=summary, description=summary)
    command.add_argument(
        "file", metavar="FILE", nargs="?", help="as of `sequences` (default: synthetic ones)"
    )
    command.add_argument(
        "--ranks",
        type=_positive,
        nargs="+",
        default=[1, 2],
        metavar="N",
        help="processes of one thread each; 1 is always measured (default: 1 2)",
    )
    command.add_argument(
        "--epochs", type=_positive, default=2, metavar="N", help="to train (default: 2)"
    )
    command.add_argument("--out", metavar="FILE.png", help="where the plot goes")
    _add_recipe(command, "scaling")


def _add_recipe(command: argparse.ArgumentParser, name: str) -> None:
    """What every benchmark understands."""
    command.add_argument("--seed", type=_positive, help="train.seed (default: that of --conf)")
    command.add_argument(
        "--conf",
        metavar="FILE",
        help="settings that differ from conf/base.yaml (default: conf/benchmark.yaml)",
    )
    command.epilog = "Any setting can be given as section.key=value, e.g. train.max_epochs=5."
    command.set_defaults(command=_lazy("benchmark", name), name=f"benchmark {name}")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return int(text)


def _lazy(module: str, function: str) -> Callable[[argparse.Namespace], None]:
    """Spark and torch take seconds to load: only the command that runs does so."""

    def command(options: argparse.Namespace) -> None:
        import importlib

        getattr(importlib.import_module(f"recsys.cli.{module}"), function)(options)

    return command


if __name__ == "__main__":
    main()
