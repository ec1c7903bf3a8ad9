"""What tests of training begin with; on one thread: results then depend on no machine."""

from __future__ import annotations

import pytest
import torch

from recsys.schemas import PinnedTable
from tests.training_tables import Windows, make_table


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[PinnedTable, Windows]:
    """Two length buckets, in memory alone; some files have tables of their own."""
    return make_table(
        tmp_path_factory.mktemp("table"),
        files={9: [60, 60], 17: [60, 50]},
        validation={9: [20], 17: [20]},
        write=False,
    )
