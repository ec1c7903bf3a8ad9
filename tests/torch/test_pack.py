"""What a scoring worker loads: laid out once a machine, mapped by all, the same for all."""

from __future__ import annotations

import dataclasses
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from recsys.bundle import BundleInfo, save_bundle
from recsys.models import (
    MatrixFactorization,
    MatrixFactorizationConfig,
    Recommender,
    SequenceTransformer,
    TransformerConfig,
)
from recsys.ranking.approximate import build_clusters, clusters_bytes
from recsys.ranking.exact_top_n import rank_products
from recsys.score import pack
from recsys.score.memory import describe_memory
from recsys.score.ranker import index_items

pytestmark = pytest.mark.torch

ITEMS = 30
IDS = pa.array(["", *(f"item {n}" for n in range(1, ITEMS + 3))])
POPULARITY = np.arange(ITEMS + 3, dtype=np.float32)


def write(folder: Path, model: Recommender) -> Path:
    save_bundle(folder / "bundle", model, BundleInfo("2026-01-01", "f", ITEMS, 4))
    pack.write_pack(folder / "scoring.tar", folder / "bundle", IDS, POPULARITY)
    return folder / "scoring.tar"


def make_transformer() -> SequenceTransformer:
    return SequenceTransformer(
        TransformerConfig(ITEMS, 4, dims=8, blocks=1, heads=2, dropout=0.0)
    ).eval()


def test_a_pack_holds_what_was_written(tmp_path: Path) -> None:
    model = make_transformer()
    found = pack.load_pack(str(write(tmp_path, model)))
    assert found.item_ids.equals(IDS)
    assert (found.popularity == POPULARITY).all()
    assert found.ranker is None
    given = {"items": torch.tensor([[1, 2, 3], [0, 0, 9]])}
    assert torch.equal(found.model.score_items(given), model.score_items(given))
    own = index_items(model, POPULARITY)
    assert own is not None
    users = model.user_vectors(given, model.item_vectors()).detach()
    lists, expected = (rank_products(users, index, 5) for index in (found.index, own))
    assert torch.equal(lists.items, expected.items)
    assert torch.equal(lists.scores, expected.scores)


def test_workers_that_start_together_lay_it_out_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(write(tmp_path, make_transformer()))
    unpacked: list[Path] = []
    original = pack._unpack

    def count(file: Path, folder: Path, with_index: bool) -> None:
        unpacked.append(folder)
        original(file, folder, with_index)

    monkeypatch.setattr(pack, "_unpack", count)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(pack.load_pack, [path] * 3))
    assert len(unpacked) == 1
    assert all(part.item_ids.equals(found[0].item_ids) for part in found)
    assert not unpacked[0].exists(), "it was renamed"


def test_clusters_reach_this_machine_and_others(tmp_path: Path) -> None:
    path = write(tmp_path, make_transformer())
    own = pack.open_pack(path)
    assert own.clusters is None
    assert own.index is not None
    clusters = build_clusters(own.index).with_probes(2)
    pack.add_clusters(path, clusters)
    other = tmp_path / "executor"
    other.mkdir()
    shutil.copy(path, other)
    users = torch.randn(20, 8)
    wanted = clusters.rank(users, own.index, 5)
    for place in (path, other / path.name):
        found = pack.open_pack(place)
        assert found.clusters is not None
        assert found.index is not None
        assert found.clusters.identity == clusters.identity
        assert torch.equal(found.clusters.rank(users, found.index, 5).items, wanted.items)


def test_a_model_without_vectors_has_no_index(tmp_path: Path) -> None:
    config = MatrixFactorizationConfig(num_users=3, num_items=ITEMS, dims=4)
    found = pack.load_pack(str(write(tmp_path, MatrixFactorization(config).eval())))
    assert found.index is None
    assert found.model.score_items({"user_idx": torch.tensor([1])}).shape == (1, ITEMS + 1)


def test_memory_is_told_by_items_and_length() -> None:
    config = TransformerConfig(ITEMS, 50, dims=64, blocks=1, heads=2, dropout=0.0)
    line = describe_memory(config, 10_000_000, 100)
    # Ten million times 10 x 64 + 60 bytes.
    assert line.startswith("scoring with 10,000,000 items × 64 dims needs 6.5 GiB that")
    assert describe_memory(config, 10_000_000, 1000) != line
    # 400 MiB, 10,000 users x 8,000 bytes, and 400 MB; of 256 dims 51,200 events x 25,600 bytes.
    assert line.endswith("at most 0.8 GiB for each worker (a task)")
    wide = dataclasses.replace(config, dims=256)
    assert describe_memory(wide, 10_000_000, 100).endswith("1.7 GiB for each worker (a task)")
    # 72 bytes an item and the centroids more.
    assert clusters_bytes(10_000_000, 64) == 10_000_000 * 72 + 4 * 64 * 12_649
    more = describe_memory(config, 10_000_000, 100, clusters=True)
    assert more.startswith("scoring with 10,000,000 items × 64 dims needs 7.2 GiB that")
    # 809,536 vectors are learned from.
    assert more.endswith("the driver maps as much and needs 0.9 GiB to cluster the items")
