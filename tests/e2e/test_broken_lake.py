"""Whatever is wrong with lake, disk or rights: a message says what, where, and what to do."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from recsys import schemas
from recsys.config import load_settings
from recsys.lake.tables import Lake
from tests.e2e.shell import GOOD, Shell
from tests.e2e.small_night import forget_tables
from tests.spark.tiny_logs import DAY, write_json

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("spark")]


def test_lake_written_by_a_newer_release(shell: Shell, spark: SparkSession) -> None:
    write_json(shell.logs / "a.json", GOOD)
    lake = Lake(spark, load_settings(None, [f"lake.root={shell.lake}"]))
    fact = spark.createDataFrame([("schema_version", "99")], schemas.OPS_LAKE.ddl)
    lake.replace(schemas.OPS_LAKE, fact)
    err = shell.fail("nightly")
    assert "error: the lake has schema version 99, this code knows up to 3\n" in err
    assert "install the newer recsys" in err
    assert [path.name for path in shell.lake.iterdir()] == ["ops"]


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
