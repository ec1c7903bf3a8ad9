"""Where lists are made: refused clearly without a GPU, and the same lists with one."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recsys.errors import ConfigError
from recsys.models import SequenceTransformer
from recsys.ranking.histories import Histories
from recsys.score import pack
from recsys.score.device import find_device, move
from recsys.score.lists import Lists
from recsys.score.method import check_method
from recsys.score.ranker import rank_histories
from tests.torch.test_pack import ITEMS, POPULARITY, make_transformer, write

pytestmark = pytest.mark.torch

HISTORIES = Histories([np.array([1, 2, 3]), np.array([9]), np.array([ITEMS + 1])])
SEEN = [np.array([1, 2, 3]), np.array([9, 12]), np.arange(0)]


def make_lists(found: pack.ScoringPack) -> Lists:
    return rank_histories(
        found.model, HISTORIES, SEEN, found.popularity, 5, found.ranker, found.index
    )


def test_without_a_gpu_the_executor_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert find_device("cpu").type == "cpu"
    with pytest.raises(ConfigError, match=r"score\.device=cuda, .* finds no GPU"):
        find_device("cuda")


def test_a_task_takes_the_gpu_that_spark_gave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert find_device("cuda") == find_device("cuda"), "a worker's model stays where it is"
    task = SimpleNamespace(resources=lambda: {"gpu": SimpleNamespace(addresses=["3"])})
    monkeypatch.setattr("recsys.score.device.TaskContext.get", lambda: task)
    assert find_device("cuda") == torch.device("cuda", 3)


def test_clusters_are_not_searched_on_a_gpu() -> None:
    check_method(SequenceTransformer, "exact", "cuda")
    check_method(SequenceTransformer, "auto", "cpu")
    with pytest.raises(ConfigError, match=r"score\.method=auto .* score\.device is cuda"):
        check_method(SequenceTransformer, "auto", "cuda")


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no GPU"))]  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
def test_a_moved_pack_gives_the_same_lists(tmp_path: Path, device: str) -> None:
    found = pack.load_pack(str(write(tmp_path, make_transformer())))
    wanted = make_lists(found)
    (tmp_path / "other").mkdir()
    other = shutil.copy(tmp_path / "scoring.tar", tmp_path / "other")
    plain = pack.load_pack(str(other), with_index=False)
    assert plain.index is None, "nothing is laid out that a GPU's worker does not use"
    moved = move(plain, torch.device(device))
    lists = make_lists(moved)
    assert moved.index is not None
    assert moved.index.vectors.device.type == device
    assert (lists.items == wanted.items).all()
    assert (lists.from_model == wanted.from_model).all()
    assert np.allclose(lists.scores, wanted.scores, atol=1e-5)
    assert (POPULARITY[lists.items] > 0).all()
