"""Both notebooks run from top to bottom on a real, small lake, and show their pictures."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = [pytest.mark.notebooks, pytest.mark.timeout(1200)]

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PICTURES = {"look_at_data": 6, "look_at_results": 4}
TABLES = {"look_at_data": 0, "look_at_results": 2}
LOGS = ["generate.events=2000", "generate.users=50", "generate.items=60", "generate.days=3"]
FAST = [
    "train.launcher=single", "train.ranks=1", "train.max_epochs=2", "model.dims=16",
    "evaluate.als.rank=8", "evaluate.als.iterations=2", "evaluate.bootstrap_samples=20",
]  # fmt: skip


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake after one night, made by the commands that a person types."""
    folder = tmp_path_factory.mktemp("night")
    date = "2026-01-03"
    recsys = str(ROOT / ".venv/bin/recsys")
    for command in (
        ["generate", "--out", str(folder / "logs"), "--end-date", date, *LOGS],
        ["nightly", "--input", str(folder / "logs"), "--format", "generated", "--date", date,
         "--lake", str(folder / "lake"), *FAST],
    ):  # fmt: skip
        run = subprocess.run([recsys, *command], capture_output=True, text=True, timeout=900)
        assert run.returncode == 0, run.stdout + run.stderr
    return folder / "lake"


@pytest.fixture
def kernel_variables(monkeypatch: pytest.MonkeyPatch, lake: Path) -> None:
    """The kernel inherits this process's environment, but must not join its Spark session."""
    for name in [name for name in os.environ if name.startswith("PYSPARK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RECSYS_LAKE", str(lake))


def test_every_notebook_is_known() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(PICTURES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_without_outputs_and_defines_nothing(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [], cell.source
            assert cell.execution_count is None, cell.source
            lines = cell.source.splitlines()
            assert not [line for line in lines if line.startswith(("def ", "class "))]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.usefixtures("kernel_variables")
def test_notebook_runs_and_shows_its_pictures(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()  # a cell that fails raises here, with its source and its error
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    shown = [kind for out in outputs for kind in out.get("data", {})]
    assert shown.count("image/png") == PICTURES[path.stem]
    assert shown.count("text/html") == TABLES[path.stem]
    printed = "".join(out.text for out in outputs if out.get("name") == "stdout")
    assert "night of 2026-01-03" in printed
