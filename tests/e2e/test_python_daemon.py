"""Spark's Python workers of a scoring session find imported what ranks users."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.e2e

SCRIPT = """
import sys
from recsys.config import load_settings
from recsys.lake.session import build_session
from recsys.steps.lists import SCORE_USERS

def look(batches):
    for batch in batches:
        yield batch.from_pydict({"found": ["recsys.score.workers" in sys.modules]})

settings = load_settings(None, ["spark.master=local[1]", "lake.root=unused"])
spark = build_session(settings, "daemon", SCORE_USERS.python_daemon)
print("found", spark.range(1).mapInArrow(look, "found boolean").first().found)
"""


def test_workers_have_imported_what_ranks_users() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=True
    )
    assert "found True" in done.stdout
