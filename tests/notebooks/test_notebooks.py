"""Both notebooks run from top to bottom on a real, small lake, and show their pictures."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.e2e.small_night import DATES, Nights

pytestmark = [pytest.mark.notebooks, pytest.mark.timeout(1200)]

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PICTURES = {"look_at_data": 6, "look_at_results": 4}
TABLES = {"look_at_data": 0, "look_at_results": 2}


@pytest.fixture
def kernel_variables(monkeypatch: pytest.MonkeyPatch, two_nights: Nights) -> None:
    """The kernel inherits this process's environment, but must not join its Spark session."""
    for name in [name for name in os.environ if name.startswith("PYSPARK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RECSYS_LAKE", str(two_nights.lake))


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
    assert f"night of {DATES[-1]}" in printed
