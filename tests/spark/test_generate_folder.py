"""The generated log's folder: the same again is a no-op, anything else is never half done."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from recsys.errors import ConfigError, InputError
from recsys.generate import GeneratedLog, generate_log
from recsys.generate import log as log_module
from recsys.generate.folder import Folder
from recsys.generate.world import World
from tests.spark.generated_log import END, digest, read_lines, small, tiny

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def tiny_source(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "log"
    generate_log(spark, tiny(seed=1), str(folder), END)
    return folder


@pytest.fixture
def tiny_log(tiny_source: Path, tmp_path: Path) -> Path:
    """A log of its own for a test that changes it: alone in its folder."""
    return Path(shutil.copytree(tiny_source, tmp_path / "own" / "log"))


def test_overwrite_replaces_with_another_seed_every_line(
    spark: SparkSession, tiny_log: Path
) -> None:
    before = {line.text for line in read_lines(tiny_log)}
    assert generate_log(spark, tiny(seed=2), str(tiny_log), END, overwrite=True).created
    after = {line.text for line in read_lines(tiny_log)}
    assert before
    assert after
    assert not before & after
    assert [path.name for path in tiny_log.parent.iterdir()] == ["log"]


def test_same_settings_again_do_nothing(spark: SparkSession, tiny_source: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny_source.rglob("*")}
    said: list[str] = []
    again = generate_log(spark, tiny(seed=1), str(tiny_source), END, progress=said.append)
    counts = json.loads((tiny_source / "_generated.json").read_text())["counts"]
    assert again == GeneratedLog(str(tiny_source), False, counts)
    assert {path: path.stat().st_mtime_ns for path in tiny_source.rglob("*")} == before
    assert said == [f"{tiny_source} holds this log already"]


def test_other_settings_are_named_in_the_error(spark: SparkSession, tiny_source: Path) -> None:
    with pytest.raises(InputError, match="seed is 1, asked for 8") as caught:
        generate_log(spark, tiny(seed=8), str(tiny_source), END)
    assert "overwrite" in caught.value.do
    with pytest.raises(InputError, match="end_date is 2026-03-05, asked for 2026-03-06"):
        generate_log(spark, tiny(seed=1), str(tiny_source), END + timedelta(days=1))


def test_overwrite_spares_what_is_no_generated_log(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match="something else than a generated log"):
        generate_log(spark, tiny(), str(tmp_path), END, overwrite=True)
    assert (tmp_path / "precious.txt").exists()


def test_a_failure_leaves_what_was_there(
    spark: SparkSession, tiny_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = tiny_log.parent
    before = digest(parent)

    def fail(_spark: SparkSession, _world: World, draft: Folder) -> None:
        draft.write("dt=2026-03-05/part-00000.json.gz", "half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(log_module, "_write_lines", fail)
    for name in ("log", "new"):
        with pytest.raises(RuntimeError, match="disk full"):
            generate_log(spark, tiny(seed=2), str(parent / name), END, overwrite=True)
    assert digest(parent) == before
    assert not (parent / "new").exists()


def test_leftovers_of_a_killed_run_do_not_matter(
    spark: SparkSession, tiny_log: Path, tmp_path: Path
) -> None:
    leftover = tmp_path / "again" / "_log.writing" / "dt=2020-01-01" / "part-00000.json.gz"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half")
    generate_log(spark, tiny(seed=1), str(tmp_path / "again" / "log"), END)
    assert digest(tmp_path / "again") == digest(tiny_log.parent)


def test_a_damaged_manifest_and_a_bad_path_are_explained(
    spark: SparkSession, tiny_log: Path
) -> None:
    (tiny_log / "_generated.json").write_text("{")
    with pytest.raises(InputError, match="manifest of the generated log is damaged"):
        generate_log(spark, tiny(seed=1), str(tiny_log), END)
    with pytest.raises(InputError, match="can't write there"):
        generate_log(spark, tiny(seed=1), str(tiny_log / "items.tsv" / "log"), END)


def test_impossible_settings_are_refused(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="add up to"):
        generate_log(spark, small(late_rate=0.9, malformed_rate=0.9), str(tmp_path / "a"), END)
    with pytest.raises(ConfigError, match="events a user and day"):
        generate_log(spark, small(events=1_000_000, users=20), str(tmp_path / "a"), END)
    assert not (tmp_path / "a").exists()
