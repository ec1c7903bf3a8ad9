"""The command `recsys` on small logs, as a fixture."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.shell import Shell


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)
