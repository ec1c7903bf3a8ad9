"""The command line: help of every command, exit codes, messages; no Spark needed for those."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from recsys import __version__
from recsys.cli.main import LAKE_COMMANDS, main
from recsys.cli.options import run
from recsys.errors import InputError, LakeError
from recsys.steps import SUMMARIES
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.core

COMMANDS = [
    "nightly", "demo", "generate", *(step.replace("_", "-") for step in SUMMARIES), "summary",
    "checks", "top-n", "runs", "config", "mlflow-ui", "warm-up", "lake", "benchmark",
    "search",
]  # fmt: skip


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    said = capsys.readouterr()
    return int(caught.value.code or 0), said.out, said.err


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--help")
    assert code == 0
    for command in COMMANDS:
        assert re.search(rf"^    {command}\s", out, re.M), command


@pytest.mark.parametrize(
    "command",
    [
        *COMMANDS,
        *(f"lake {name}" for name in LAKE_COMMANDS),
        "benchmark sequences",
        "benchmark scaling",
    ],
)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, *command.split(), "--help")
    assert code == 0
    assert out.startswith(f"usage: recsys {command}")
    assert ("section.key=value" in out) == (command != "warm-up")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "--version")[:2] == (0, f"{__version__}\n")


def test_installed_command_answers_without_loading_spark_or_torch() -> None:
    code = (
        "import sys; sys.argv = ['recsys', '--help']\n"
        "from recsys.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'pyspark', 'torch', 'mlflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)
    command = [str(Path(sys.executable).with_name("recsys")), "--version"]
    assert subprocess.check_output(command, text=True, timeout=60) == f"{__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["config", "score.n=0"], "error: score.n=0 is not allowed"),
        (["config", "lake.s3_endpoint=minio"], "error: lake.s3_endpoint='minio' is not allowed"),
        (["config", "score.m=1"], "error: unknown setting score.m"),
        (["config", "--conf", "nowhere.yaml"], "error: config file nowhere.yaml does not exist"),
        (["config", "--format", "nothing"], "error: input.format=nothing is not known"),
        (["ingest", "--date", "2026-02-30"], "error: --date=2026-02-30 is not a date"),
        (["ingest"], "the following arguments are required: --date"),
        (
            ["nightly", "--date", "2026-01-01", "--nights", "0"],
            "--nights: 0 is not a whole number from 1",
        ),
        (["nightly", "--date", "2026-01-01", "--nigths", "2"], "unrecognized arguments"),
        (["nonsense"], "invalid choice: 'nonsense'"),
        ([], "arguments are required: COMMAND"),
    ],
)
def test_bad_value_exits_with_2_and_says_what_is_wrong(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert said in err
    assert "Traceback" not in err


def test_config_prints_settings_in_force(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "config", "--lake", "/some/lake", "score.n=7")
    assert code == 0
    assert "root: /some/lake\n" in out
    assert "\n  n: 7\n" in out


@pytest.mark.parametrize(
    "path", ["2026-01-01", "a: b", "logs #1", "[x]", "007", "null", "é😀", "~"]
)
def test_paths_are_taken_as_they_are_typed(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    code, out, err = call(capsys, "config", "--lake", path, "--input", path)
    assert code == 0, err
    settings = yaml.safe_load(out)
    assert settings["lake"]["root"] == path
    assert settings["input"]["path"] == path


def test_each_job_has_help_of_its_own() -> None:
    for path in sorted((REPOSITORY / "jobs").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert f"main({path.stem.upper()})" in text or path.stem == "housekeeping"
        assert f"spark-submit jobs/{path.name}" in text


def test_error_is_printed_without_a_stack_trace(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> None:
        raise InputError("the log is empty", where="a/b.csv:3", do="look at it")

    assert run(body) == 1
    expected = "error: the log is empty\n  where: a/b.csv:3\n  do:    look at it\n"
    assert capsys.readouterr().err == expected


def test_stack_trace_of_the_cause_is_shown_on_demand(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def body() -> None:
        try:
            raise OSError("deep inside")
        except OSError as error:
            raise LakeError("a table can't be read") from error

    run(body)
    assert "RECSYS_DEBUG=1" in capsys.readouterr().err
    monkeypatch.setenv("RECSYS_DEBUG", "1")
    run(body)
    assert "OSError: deep inside" in capsys.readouterr().err


def test_unforeseen_error_is_one_line_and_says_how_to_see_more(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def body() -> None:
        raise ZeroDivisionError("division by zero\n\tat Some.java")

    assert run(body) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: unforeseen ZeroDivisionError: division by zero\n")
    assert "RECSYS_DEBUG=1" in err
    assert "Some.java" not in err


def test_interruption_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> None:
        raise KeyboardInterrupt

    assert run(body) == 130
    assert "run the same command again" in capsys.readouterr().err
