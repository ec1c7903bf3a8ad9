"""The same night in local mode and on a Spark cluster, with the lake in a folder, S3 and HDFS."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import FileSelector, S3FileSystem

from tests.cluster.clusters import KEY, SECRET, STEPS, Submitter, running_services
from tests.e2e.small_night import DATES, Nights, read_state

# Each job has a JVM of its own, and two executors start for it: minutes on a busy machine.
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

State = dict[str, list[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cluster")


@pytest.fixture(scope="module")
def local(spark: Any, folder: Path) -> tuple[Path, State]:
    """The raw log, and what a night in local mode makes of it."""
    nights = Nights(folder, spark)
    nights.run(DATES[-1])
    return folder / "log", comparable(read_state(spark, nights.lake))


@pytest.fixture(scope="module")
def services(local: Any, folder: Path) -> Iterator[dict[str, str]]:
    with running_services(folder / "services", "spark", "s3", "hdfs", "mlflow") as addresses:
        yield addresses


@pytest.fixture
def submitter(services: dict[str, str], local: tuple[Path, State]) -> Submitter:
    return Submitter(services["spark"], local[0], services["mlflow"])


def comparable(state: State) -> State:
    """The state without what is meant to differ: the registered model's name."""
    published = [json.loads(row) for row in state["ops/published"]]
    for row in published:
        del row["model_name"]
    return {**state, "ops/published": [json.dumps(row, sort_keys=True) for row in published]}


def read_lake(submitter: Submitter, lake: str, folder: Path, *overrides: str) -> State:
    """What a job on the cluster reads from the lake."""
    target = folder / "state.json"
    submitter.submit("tests/cluster/dump_lake.py", lake, str(target), *overrides)
    return comparable(json.loads(target.read_text(encoding="utf-8")))


def different(found: State, wanted: State) -> set[str]:
    assert wanted["live lists"], "the reference is empty"
    return {name for name in wanted if found[name] != wanted[name]}


def finished_jobs(services: dict[str, str]) -> dict[str, int]:
    """What the master says: name of each finished application, and the cores it had."""
    with urllib.request.urlopen(f"{services['spark-web']}/json/") as answer:
        return {app["name"]: app["cores"] for app in json.load(answer)["completedapps"]}


def export_twice(submitter: Submitter, lake: str, name: str, path: str) -> list[str]:
    """What became of the lists' copy in a folder of the lake's file system, each time."""
    target = f"export.targets.files={{kind: parquet, path: {path}}}"
    with_target = replace(submitter, more=(*submitter.more, target))
    said = [with_target.run_step("export", lake, name) for _ in range(2)]
    return re.findall(r"files: (written|there already)$", "\n".join(said), re.MULTILINE)


def list_s3(endpoint: str, folder: str) -> list[str]:
    """The files below a folder of the store, as ``bucket/key``."""
    address = endpoint.partition("://")[2]
    store = S3FileSystem(
        access_key=KEY,
        secret_key=SECRET,
        endpoint_override=address,
        scheme="http",
        region="us-east-1",
    )
    found = store.get_file_info(FileSelector(folder, recursive=True))
    return [file.path for file in found if file.is_file]


def test_a_lake_in_a_shared_folder(
    services: dict[str, str],
    submitter: Submitter,
    local: tuple[Path, State],
    spark: Any,
    tmp_path: Path,
) -> None:
    lake = tmp_path / "lake"
    submitter.run_night(str(lake), "shared-folder")
    assert different(comparable(read_state(spark, lake)), local[1]) == set()
    # It was the cluster that worked, with a core of each worker.
    jobs = finished_jobs(services)
    assert {jobs.get(f"recsys {step} {DATES[-1]}") for step in STEPS} == {2}


def test_a_lake_in_s3(
    services: dict[str, str],
    submitter: Submitter,
    local: tuple[Path, State],
    folder: Path,
    tmp_path: Path,
) -> None:
    lake, endpoint = "s3a://lake/nights", f"lake.s3_endpoint={services['s3']}"
    on_s3 = replace(submitter, more=(endpoint, f"train.checkpoint_dir={tmp_path}/checkpoints"))
    output = on_s3.run_night(lake, "in-s3")
    assert different(read_lake(submitter, lake, tmp_path, endpoint), local[1]) == set()
    # Workers wrote the lists, with the credentials of their environment.
    names = [name for name in list_s3(services["s3"], "lake/nights/gold/top_n") if "/run_" in name]
    assert names
    assert [name for name in names if not re.search(r"/part-[0-9a-f]{32}\.zstd", name)] == []
    copies = export_twice(on_s3, lake, "in-s3", "s3a://lake/copies")
    assert copies == ["written", "there already"]
    # Keys reach executors and ranks, but no log, no run and no file of theirs.
    assert SECRET not in output
    kept = [path for path in folder.rglob("*") if path.is_file()] + list(tmp_path.rglob("*.*"))
    assert [path for path in kept if path.is_file() and SECRET.encode() in path.read_bytes()] == []


def test_a_lake_in_hdfs(
    services: dict[str, str], submitter: Submitter, local: tuple[Path, State], tmp_path: Path
) -> None:
    lake, stage = f"{services['hdfs']}/lake", tmp_path / "stage"
    on_hdfs = replace(
        submitter,
        more=(f"train.checkpoint_dir={tmp_path}/checkpoints", f"feed.stage_dir={stage}"),
    )
    on_hdfs.run_night(lake, "in-hdfs")
    assert different(read_lake(submitter, lake, tmp_path), local[1]) == set()
    assert list(stage.iterdir()) == []
    copies = export_twice(on_hdfs, lake, "in-hdfs", f"{services['hdfs']}/copies")
    assert copies == ["written", "there already"]
