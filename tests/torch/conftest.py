"""Tests here run on one thread: models are tiny, and results then don't depend on the machine."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
