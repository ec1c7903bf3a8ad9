"""The arrows between the rooms, as DESIGN's table draws them; contracts are in pyproject.toml."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.core

CONTRACTS = [
    contract["id"]
    for contract in tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"][
        "importlinter"
    ]["contracts"]
]


def lint_imports(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_all_contracts_hold() -> None:
    done = lint_imports(REPOSITORY)
    assert done.returncode == 0, done.stdout
    assert f"Contracts: {len(CONTRACTS)} kept, 0 broken." in done.stdout


PLANTED = {
    "lake/gold.py": ("import recsys.train.plan", "lake-and-train"),
    "ranking/top_n.py": ("import recsys.models", "pure-rooms"),
    "models/losses.py": ("import recsys.files", "pure-rooms-below"),
    "lake/silver.py": ("import recsys.ranking", "lake-below"),
    "train/plan.py": ("import recsys.generate", "train-below"),
    "score/checks.py": ("import recsys.train.plan", "score-below"),
    "export/contract.py": ("import recsys.steps", "export-below"),
    "export/lists.py": ("import redis", "stores"),
    "steps/runner.py": ("import recsys.cli.job", "steps-below-cli"),
    "train/feed.py": ("import petastorm", "petastorm"),
    "train/loop.py": ("import horovod.torch", "horovod"),
    "steps/etl.py": ("import mlflow", "mlflow"),
    "benchmark/run.py": ("import optuna", "optuna"),
    "score/job.py": ("import numba", "numba"),
    "ranking/exact_top_n.py": ("import faiss", "faiss"),
    "train/shuffle.py": ("import pyspark.sql", "no-spark"),
    "lake/tables.py": ("import torch", "no-torch"),
}


def test_every_contract_is_broken_by_an_import_it_forbids(tmp_path: Path) -> None:
    """The contracts look where they should: on a copy of the imports, one is planted for each."""
    for path in (REPOSITORY / "recsys").rglob("*.py"):
        target = tmp_path / path.relative_to(REPOSITORY)
        target.parent.mkdir(parents=True, exist_ok=True)
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        imports = [ast.unparse(n) for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom))]
        planted = PLANTED.get(str(path.relative_to(REPOSITORY / "recsys")), ("", ""))[0]
        lines = [line for line in (*imports, planted) if "__future__" not in line]
        target.write_text("\n".join(lines))
    (tmp_path / "pyproject.toml").write_text((REPOSITORY / "pyproject.toml").read_text())
    done = lint_imports(tmp_path)
    assert sorted(contract for _, contract in PLANTED.values()) == sorted(CONTRACTS)
    assert f"Contracts: 0 kept, {len(CONTRACTS)} broken." in done.stdout, done.stdout


def test_every_ignored_import_is_one_the_design_names() -> None:
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]
    allowed = {
        "recsys.train.petastorm_reader -> petastorm",
        "recsys.train.horovod_communication -> horovod",
        "recsys.train.horovod_waits -> horovod",
        "recsys.train.launch -> horovod",
        "recsys.train.tracking -> mlflow",
        "recsys.train.registry -> mlflow",
        "recsys.train.pyfunc_model -> mlflow",
        "recsys.train.search -> optuna",
        "recsys.ranking.machine_code -> numba",
        "recsys.ranking.approximate -> faiss",
        "recsys.export.redis_store -> redis",
        "recsys.export.postgres_connection -> pg8000",
    }
    ignored = [line for c in contracts["contracts"] for line in c.get("ignore_imports", [])]
    assert set(ignored) == allowed


def test_airflow_dags_import_nothing_of_recsys() -> None:
    for path in sorted((REPOSITORY / "airflow_dags").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "recsys"], path


def test_each_job_is_under_60_lines_and_has_its_step() -> None:
    from recsys.steps import SUMMARIES

    jobs = {path.stem: path for path in (REPOSITORY / "jobs").glob("*.py")}
    assert sorted(jobs) == sorted([*SUMMARIES, "housekeeping"])
    for path in jobs.values():
        assert len(path.read_text(encoding="utf-8").splitlines()) < 60
