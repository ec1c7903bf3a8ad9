"""Whatever is wrong with input or settings: a message says what, where, and what to do."""

from __future__ import annotations

import gzip
import random
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from pyspark.sql import SparkSession

from recsys import schemas
from recsys.cli.main import main
from recsys.config import load_settings
from recsys.lake.tables import Lake
from tests.e2e.shell import CSV, DAILY, GOOD, HEADERLESS, LINE, Shell
from tests.spark.tiny_logs import DAY, JSON, write_json

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("spark")]


def test_missing_input_path(shell: Shell) -> None:
    shutil.rmtree(shell.logs)
    err = shell.fail("nightly")
    assert err.startswith("error: the input path does not exist\n")
    assert f"  where: {shell.logs}\n" in err
    assert "check --input" in err


def test_input_not_given(shell: Shell) -> None:
    arguments = ["ingest", "--date", str(DAY), "--lake", str(shell.lake)]
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "error: input.path is not set" in shell.capsys.readouterr().err


@pytest.mark.parametrize("log", [JSON, DAILY], ids=["snapshot", "daily"])
def test_empty_folder(shell: Shell, log: dict[str, Any]) -> None:
    shell.use(log)
    assert f"error: no file matches '{log['files']}'\n" in shell.fail("ingest")


def test_file_without_a_record(shell: Shell) -> None:
    (shell.logs / "a.json").write_text("")
    err = shell.fail("ingest")
    assert "error: the log has no record at all\n" in err
    assert "/logs/a.json" in err


def test_unknown_file_system(shell: Shell) -> None:
    err = shell.fail("ingest", **{"--input": "gopher://host/logs"})
    assert "error: the input can't be read: " in err
    assert "gopher" in err


def test_binary_file(shell: Shell) -> None:
    content = random.Random(1).randbytes(4000) + b"\n\x00\n"
    (shell.logs / "a.json").write_bytes(content)
    err = shell.fail("nightly")
    assert "error: 100.0% of " in err
    assert "binary " in err
    assert "first " in err


def test_gzip_that_is_none(shell: Shell) -> None:
    write_json(shell.logs / "good.json", GOOD)
    (shell.logs / "bad.json.gz").write_text("plain text")
    err = shell.fail("ingest")
    assert "error: a file is not what its name says: not gzip\n" in err
    assert "/logs/bad.json.gz\n" in err


def test_gzip_that_is_cut_off(shell: Shell) -> None:
    whole = gzip.compress(random.Random(1).randbytes(100_000).hex().encode())
    (shell.logs / "cut.json.gz").write_bytes(whole[:50_000])
    assert "error: a gzip file is cut off\n" in shell.fail("ingest")


def test_wrong_columns_in_the_header(shell: Shell) -> None:
    shell.use(CSV)
    (shell.logs / "a.csv").write_text(f"user,product,type,ts,rating,value\n{LINE}")
    err = shell.fail("nightly")
    assert "error: wrong columns: item is not in the header\n" in err
    assert "where: a.csv:1 has user, product, type, ts, rating, value\n" in err


def test_files_of_one_night_with_other_columns(shell: Shell) -> None:
    shell.use(CSV)
    (shell.logs / "a.csv").write_text(f"user,item,type,ts,rating,value\n{LINE}")
    (shell.logs / "b.csv").write_text(f"item,user,type,ts,rating,value\n{LINE}")
    err = shell.fail("ingest")
    assert "error: files of one night differ in their columns\n" in err
    assert "a.csv has user, item" in err
    assert "b.csv has item, user" in err


def test_wrong_columns_without_a_header(shell: Shell) -> None:
    shell.use(HEADERLESS)
    (shell.logs / "a.csv").write_text(f"u,a,{DAY}T10:00:00Z\n" * 20)
    err = shell.fail("nightly")
    assert "error: 100.0% of 20 records were rejected, allowed are 5.0%: malformed 20\n" in err
    assert "first malformed: a.csv:1;" in err
    assert "check that the log has the format's columns" in err


def test_all_lines_malformed(shell: Shell) -> None:
    write_json(shell.logs / "a.json", ["not json"] * 9)
    assert "error: 100.0% of 9 records were rejected" in shell.fail("nightly")


def test_too_many_rejects_publish_nothing(shell: Shell) -> None:
    write_json(shell.logs / "a.json", [*GOOD, *["{"] * 4])
    err = shell.fail("nightly")
    assert "error: 9.1% of 44 records were rejected, allowed are 5.0%: malformed 4\n" in err
    assert "first malformed: a.json:41;" in err
    assert "nothing was published" in err
    failed = run_of(shell, "build_silver")
    assert failed["status"] == "failed"
    assert failed["message"].startswith("9.1% of 44 records")


def run_of(shell: Shell, stage: str) -> Any:
    settings = load_settings(None, [f"lake.root={shell.lake}"])
    lake = Lake(SparkSession.builder.getOrCreate(), settings)
    return lake.read(schemas.OPS_RUNS).where(f"stage = '{stage}'").collect()[0]


def test_date_without_data(shell: Shell) -> None:
    shell.use(DAILY)
    write_json(shell.logs / "dt=2026-03-01/a.json", GOOD)
    err = shell.fail("nightly")
    assert f"error: no data for {DAY}\n" in err
    assert "the log has 2026-03-01 to 2026-03-01" in err


def test_step_before_its_turn(shell: Shell) -> None:
    write_json(shell.logs / "a.json", GOOD)
    err = shell.fail("build-gold")
    assert f"error: build_silver has not succeeded for {DAY}\n" in err
    assert f"recsys build-silver --date {DAY}" in err
    assert f"error: no night {DAY} in this lake\n" in summary(shell)


def summary(shell: Shell) -> str:
    """No input is asked for."""
    with pytest.raises(SystemExit):
        main(["summary", "--date", str(DAY), "--lake", str(shell.lake)])
    return shell.capsys.readouterr().err


def test_unknown_setting(shell: Shell) -> None:
    code, err = shell.call("nightly", "score.m=3")
    assert code == 2
    assert "error: unknown setting score.m\n" in err
    assert not shell.lake.exists()


def test_every_error_of_this_file_is_meant_for_people(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that nobody foresaw, too, comes without Java's stack trace."""
    import recsys.steps.etl as etl

    def broken(*_: Any) -> Callable[..., Any]:
        raise RuntimeError("An error occurred while calling o1.x.\n: java.X: no luck\n\tat a.b.C")

    write_json(shell.logs / "a.json", GOOD)
    monkeypatch.setattr(etl, "ingest_files", broken)
    code, err = shell.call("ingest")
    assert code == 1
    assert err == (
        "error: unforeseen RuntimeError: java.X: no luck\n"
        "  do:    run it again with RECSYS_DEBUG=1 for the stack trace\n"
    )
