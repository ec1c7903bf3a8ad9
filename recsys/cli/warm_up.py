"""``recsys warm-up``: what a machine would otherwise compile while its first lists are made."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

ITEMS, DIMS, USERS = 100, 8, 4


def warm_up(options: argparse.Namespace) -> None:
    """Rank a few made-up items, through files as a night does; says where the code is kept.

    Raises:
        RecsysError: it can be kept nowhere.
    """
    import torch

    from recsys.errors import RecsysError
    from recsys.ranking import machine_code
    from recsys.ranking.exact_top_n import rank_products
    from recsys.ranking.item_index import build_index, load_index

    dice = torch.Generator().manual_seed(0)
    vectors = torch.randn((ITEMS + 1, DIMS), generator=dice)
    with tempfile.TemporaryDirectory(prefix="recsys-warm-up-") as name:
        folder = Path(name) / "index"
        folder.mkdir()
        build_index(vectors, torch.ones(ITEMS + 1, dtype=torch.bool), folder=folder)
        rank_products(torch.randn((USERS, DIMS), generator=dice), load_index(folder), n=5)
    kept = machine_code.find_folder()
    if kept is None:
        raise RecsysError(
            "there is no folder that could keep what was compiled",
            where=str(Path(machine_code.__file__).parent),
            do="run it as the user who owns the environment, or set NUMBA_CACHE_DIR",
        )
    print(f"compiled for this processor, kept in {kept}")
