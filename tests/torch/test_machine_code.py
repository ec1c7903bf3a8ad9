"""Machine code that numba has kept: of this source alone, and where a user may write."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.ranking import candidates, scan_state
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.torch

CALL = """
import numpy as np, copied
one, zero, room = np.ones(1), np.zeros(1), 64
users = copied.{users}(np.ones((1, 2)), one, zero, one, zero, zero)
blocks = copied.Blocks(one, one, zero, 0.0)
products = np.arange(room, dtype=np.int32)[None]
buffer = copied.Buffer(np.zeros(1, np.int64), zero, np.zeros((1, room), np.int32), products)
scratch = copied.Scratch(
    *np.empty((2, room)), np.empty(room, np.int32), *np.empty((2, copied.BINS), np.int64)
)
left = copied._drop_beaten(users, blocks, 0, 1, buffer, scratch, 3)
print(left, products[0, 0], sum(copied._drop_beaten.stats.cache_hits.values()))
"""
"""Of three candidates the one with the product 2 beats the others."""


RANK = """
import sys, torch
from recsys.ranking import candidates
from recsys.ranking.exact_top_n import rank_products
from recsys.ranking.item_index import build_index, load_index
from pathlib import Path
torch.manual_seed(1)
Path(sys.argv[1]).mkdir()
build_index(torch.randn(3001, 16), torch.ones(3001, dtype=torch.bool), folder=Path(sys.argv[1]))
rank_products(torch.randn(300, 16), load_index(Path(sys.argv[1])), 200)
stats = [f.stats for f in vars(candidates).values() if hasattr(f, "stats")]
print(sum(len(s.cache_hits) for s in stats), sum(len(s.cache_misses) for s in stats))
"""


def source() -> str:
    """The loops and the classes that they are given, in one module."""
    classes, loops = (Path(str(module.__file__)).read_text() for module in (scan_state, candidates))
    loops = loops.replace("from __future__ import annotations\n", "")
    return classes + re.sub(r"from recsys.ranking.scan_state import .*\n", "", loops)


def call(folder: Path, users: str = "Users", **variables: str) -> list[str]:
    """What a new process gets of a copy of the module, and how much it need not compile."""
    done = subprocess.run(
        [sys.executable, "-c", CALL.format(users=users)],
        env={
            **os.environ,
            "PYTHONPATH": f"{folder}:{REPOSITORY}",
            "HOME": str(folder / "home"),
            **variables,
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def kept(folder: Path) -> list[Path]:
    return sorted(folder.rglob("copied.*.nbi"))


def test_a_new_version_does_not_trip_over_the_code_of_the_old_one(tmp_path: Path) -> None:
    copy = tmp_path / "copied.py"
    copy.write_text(source())
    assert call(tmp_path) == ["1", "2", "0"]
    first = kept(tmp_path)
    assert first
    assert {path.is_relative_to(tmp_path / "__pycache__") for path in first} == {True}
    assert call(tmp_path) == ["1", "2", "1"]
    copy.write_text(source().replace("Users", "People"))
    assert call(tmp_path, "People") == ["1", "2", "0"]
    assert call(tmp_path, "People") == ["1", "2", "1"]


def test_code_moves_with_its_source_and_is_copied_to_where_one_may_write(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one/copied.py").write_text(source())
    assert call(tmp_path / "one") == ["1", "2", "0"]
    shutil.move(tmp_path / "one", tmp_path / "other")
    assert call(tmp_path / "other") == ["1", "2", "1"]
    own = tmp_path / "own"
    assert call(tmp_path / "other", NUMBA_CACHE_DIR=str(own)) == ["1", "2", "1"]
    assert len(kept(own)) == len(kept(tmp_path / "other"))


def test_where_nobody_may_write_code_is_kept_at_home_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "copied.py").write_text(source())
    # A file where a folder should be made stops root, too.
    (tmp_path / "__pycache__").write_text("")
    assert call(tmp_path) == ["1", "2", "0"]
    assert kept(tmp_path / "home")
    assert call(tmp_path) == ["1", "2", "1"]
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/copied.py").write_text(source())
    for name in ("__pycache__", "home"):
        (tmp_path / "bare" / name).write_text("")
    assert call(tmp_path / "bare") == ["1", "2", "0"]
    assert call(tmp_path / "bare") == ["1", "2", "0"]


def test_a_machine_that_was_warmed_up_compiles_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    command = [sys.executable, "-m", "recsys.cli.main", "warm-up"]
    warm = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert warm.returncode == 0, warm.stderr
    [folder] = (tmp_path / "kept").iterdir()
    assert warm.stdout == f"compiled for this processor, kept in {folder}\n"
    command = [sys.executable, "-c", RANK, str(tmp_path / "index")]
    ranked = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ranked.returncode == 0, ranked.stderr
    hits, misses = map(int, ranked.stdout.split())
    assert hits > 0
    assert misses == 0
