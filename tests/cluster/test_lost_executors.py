"""Real executors that are killed, and others that join later: the lists are the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.clusters import running_services
from tests.cluster.lost_executors import TASKS
from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


def test_lists_are_complete_whoever_is_killed(tmp_path: Path) -> None:
    with running_services(tmp_path / "services", "spark") as addresses:
        done = subprocess.run(
            [sys.executable, "-m", "tests.cluster.lost_executors", addresses["spark"],
             str(tmp_path / "score")],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "SPARK_LOCAL_IP": "127.0.0.1"},
            capture_output=True,
            text=True,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["joined"]
    assert found["killed"]
    assert 0 < found["killed_after"][0] < TASKS
