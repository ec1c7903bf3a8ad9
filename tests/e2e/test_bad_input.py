"""Whatever is wrong with input, lake or machine: a message says what, where, and what to do."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyspark.sql import SparkSession

from recsys import schemas
from recsys.cli.main import main
from recsys.config import load_settings
from recsys.lake.tables import Lake
from tests.spark.tiny_logs import DAY, JSON, NUMBERED, event, write_json

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("spark")]

GOOD = [event(f"u{n % 5}", f"i{n % 7}", f"10:{n:02d}:00") for n in range(40)]
DAILY = {**JSON, "layout": "daily", "files": "dt={date}/*.json*"}
CSV = {**JSON, "kind": "csv", "header": True, "files": "*.csv"}
HEADERLESS = {**CSV, "header": False, "columns": NUMBERED}
LINE = f"u,a,view,{DAY}T10:00:00Z,,\n"


class Shell:
    """The command `recsys` in this process (and its Spark session), in a folder of its own."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.lake, self.logs, self.capsys = folder / "lake", folder / "logs", capsys
        self.format = folder / "format.yaml"
        self.logs.mkdir()
        self.use(JSON)

    def use(self, log: dict[str, Any]) -> None:
        self.format.write_text(yaml.safe_dump(log))

    def arguments(self, command: str, *more: str, **changed: str) -> list[str]:
        given = {"--date": str(DAY), "--lake": str(self.lake), "--input": str(self.logs),
                 "--format": str(self.format), **changed}  # fmt: skip
        return [command, *(text for pair in given.items() for text in pair), *more]

    def call(self, command: str, *more: str, **changed: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as caught:
            main(self.arguments(command, *more, **changed))
        said = self.capsys.readouterr()
        assert "Traceback" not in said.err
        assert "\tat " not in said.err
        return int(caught.value.code or 0), said.err

    def fail(self, command: str, *more: str, **changed: str) -> str:
        code, err = self.call(command, *more, **changed)
        assert code == 1, err
        assert err.startswith("error: ")
        assert "\n  where: " in err
        assert "\n  do:    " in err
        assert not (self.lake / schemas.OPS_PUBLISHED.name).exists()
        return err


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)


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


def test_lake_written_by_a_newer_release(shell: Shell, spark: SparkSession) -> None:
    write_json(shell.logs / "a.json", GOOD)
    lake = Lake(spark, load_settings(None, [f"lake.root={shell.lake}"]))
    fact = spark.createDataFrame([("schema_version", "99")], schemas.OPS_LAKE.ddl)
    lake.replace(schemas.OPS_LAKE, fact)
    err = shell.fail("nightly")
    assert "error: the lake has schema version 99, this code knows up to 1\n" in err
    assert "install the newer recsys" in err
    assert [path.name for path in shell.lake.iterdir()] == ["ops"]


def forget_tables(spark: SparkSession) -> None:
    """As in a new process: Delta reads its logs again."""
    spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()  # type: ignore[union-attr]


@pytest.mark.parametrize("damage", ["broken", "gone"])
def test_corrupt_delta_log(shell: Shell, spark: SparkSession, damage: str) -> None:
    lake = Lake(spark, load_settings(None, [f"lake.root={shell.lake}"]))
    for night in (0, 1):  # two commits
        rows = [(f"u{night}", night + 1, DAY, DAY)]
        frame = spark.createDataFrame(rows, schemas.SILVER_USERS.ddl)
        lake.append(schemas.SILVER_USERS, frame)
    write_json(shell.logs / "a.json", GOOD)
    log = shell.lake / schemas.SILVER_USERS.name / "_delta_log"
    first = log / f"{0:020d}.json"
    (log / f".{first.name}.crc").unlink()
    if damage == "broken":
        first.write_text(first.read_text()[:200] + "\n")
    else:
        first.unlink()
    forget_tables(spark)
    err = shell.fail("nightly")
    assert "error: table silver/users can't be read: " in err
    assert f"where: {shell.lake}/silver/users\n" in err
    assert "restore the file that the message names from a backup" in err
    assert first.name in err or damage == "gone"


def test_damaged_data_file(shell: Shell, spark: SparkSession) -> None:
    write_json(shell.logs / "a.json", GOOD)
    assert shell.call("ingest")[0] == 0
    for path in (shell.lake / "bronze/events").rglob("*.parquet"):
        path.write_bytes(path.read_bytes()[:50])
        (path.parent / f".{path.name}.crc").unlink()
    err = shell.fail("build-silver")
    assert "error: table bronze/events can't be read: " in err
    assert ".parquet" in err


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_full_disk(shell: Shell, tiny_disk: Path, spark: SparkSession) -> None:
    lake = tiny_disk / "lake"
    write_json(shell.logs / "a.json", GOOD)
    assert shell.call("ingest", **{"--lake": str(lake)})[0] == 0
    noise = random.Random(1)
    records = [{**e, "note": noise.randbytes(40_000).hex()} for e in GOOD]
    write_json(shell.logs / "a.json", records)
    err = shell.fail("ingest", **{"--lake": str(lake)})
    assert "error: the disk is full: table bronze/events was not written" in err
    assert f"where: {lake}/bronze/events\n" in err
    assert "free some space and run the same command again" in err
    forget_tables(spark)
    before = Lake(spark, load_settings(None, [f"lake.root={lake}"])).read(schemas.BRONZE_EVENTS)
    assert before.count() == len(GOOD)


UNPRIVILEGED = """
import json, sys
from recsys.cli.main import main
for arguments in json.load(open(sys.argv[1])):
    try:
        main(arguments)
    except SystemExit as end:
        print("exit", end.code, file=sys.stderr)
"""


def without_root_powers() -> list[str]:
    """What to put before a command so that file permissions hold for it, also as root."""
    if os.geteuid():
        return []
    powers = "-dac_override,-dac_read_search"
    prefix = ["setpriv", f"--bounding-set={powers}", f"--inh-caps={powers}"]
    if shutil.which("setpriv") and not subprocess.run([*prefix, "true"], check=False).returncode:
        return prefix
    pytest.skip("root may read everything, and setpriv is not there to give that up")


def test_no_permission(shell: Shell, tmp_path: Path) -> None:
    prefix = without_root_powers()
    write_json(shell.logs / "a.json", GOOD)
    secret_file, secret_folder, frozen = (tmp_path / n for n in ("file", "folder", "frozen"))
    write_json(secret_file / "a.json", GOOD).chmod(0)
    write_json(secret_folder / "a.json", GOOD)
    frozen.mkdir()
    frozen.chmod(0o555)
    secret_folder.chmod(0)
    calls = [
        shell.arguments("ingest", **{"--lake": f"{frozen}/lake"}),
        shell.arguments("ingest", **{"--input": str(secret_file)}),
        shell.arguments("ingest", **{"--input": str(secret_folder)}),
    ]
    (tmp_path / "calls.json").write_text(json.dumps(calls))
    command = [*prefix, sys.executable, "-c", UNPRIVILEGED, str(tmp_path / "calls.json")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    finally:
        secret_folder.chmod(0o755)
    errors = "error: " + done.stderr.partition("error: ")[2]
    lake, file, folder = errors.split("exit 1\n")[:3]
    assert "Traceback" not in done.stderr
    assert "error: no permission to write table ops/lake\n" in lake
    assert f"where: {frozen}/lake/ops/lake\n" in lake
    assert "give the user that runs the job write access" in lake
    assert "error: no permission to read a file\n" in file
    assert "/file/a.json\n" in file
    assert "error: no permission to read the input\n" in folder
    assert f"where: {secret_folder}\n" in folder


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
