"""Validation of next items: the rank of each target among all items, whatever the model says."""

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recsys.schemas import PinnedTable
from recsys.train.batch import make_batch
from recsys.train.communication import SingleProcess
from recsys.train.models import make_model
from recsys.train.objectives.next_item import NextItem
from recsys.train.objectives.next_item_ranks import HIT_RATE, LOSS, NDCG, next_items, validate
from tests.training_tables import Windows, make_job, make_windows

pytestmark = pytest.mark.torch


def test_validation_ranks_every_target_among_all_items(table: tuple[PinnedTable, Windows]) -> None:
    torch.manual_seed(3)
    job = make_job(Path("unused"), table[0])
    from recsys.models import TransformerConfig, build_model

    shape = job.settings.model.model_dump()
    model = build_model(TransformerConfig.from_settings(shape, 40, 16)).eval()
    rows = [table[1][f.url]["items"].astype("int32") for f in table[0].files if f.split != "train"]
    found = validate(
        model, [make_batch(r, None) for r in rows], SingleProcess(), torch.device("cpu")
    )

    ndcg = hits = loss = count = 0.0
    for window in (window for part in rows for window in part):
        items = torch.tensor(window[window > 0]).long()
        scores = (model(items[None, :-1])[0] @ model.item_vectors().T)[:, 1:]
        for row, target in zip(scores, items[1:].tolist(), strict=True):
            rank = 1 + sum(1 for j in range(40) if row[j] >= row[target - 1] and j != target - 1)
            count, hits = count + 1, hits + (rank <= 10)
            ndcg += 1 / math.log2(rank + 1) if rank <= 10 else 0
            loss -= torch.log_softmax(row, 0)[target - 1].item()
    assert found[NDCG] == pytest.approx(ndcg / count, rel=1e-4)
    assert found[HIT_RATE] == pytest.approx(hits / count, rel=1e-4)
    assert found[LOSS] == pytest.approx(loss / count, rel=1e-4)


def test_the_window_s_own_items_are_not_ranked_in_validation() -> None:
    """A model that ranks the user's own items first hits only once these are left out."""

    class Repeats(torch.nn.Module):
        config = SimpleNamespace(looks_at=("items",))

        def item_vectors(self) -> torch.Tensor:
            return torch.eye(13)

        def forward(self, items: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
            scores = torch.zeros(*items.shape, 13)
            scores[..., 1:12] = 2.0  # eleven items of the window ...
            scores[..., 12] = 1.0  # ... before the target
            return scores

    rows = np.array([[-1, -2, -3, -4, -5, -6, -7, -8, -9, -10, -11, 12]], dtype=np.int32)
    model, cpu = Repeats(), torch.device("cpu")
    for exclude, hit in ((False, 0.0), (True, 1.0)):
        found = validate(
            model,  # type: ignore[arg-type]
            [make_batch(rows, None)],
            SingleProcess(),
            cpu,
            exclude_own_items=exclude,
        )
        assert (found[HIT_RATE], found[NDCG]) == (hit, hit)


@pytest.mark.parametrize(
    ("exclude", "expected"),
    [(True, [5, 3, 9, 2, 4, 8]), (False, [5, 5, 3, 7, 3, 9, 2, 1, 2, 4, 4, 1, 8])],
)
def test_what_a_user_has_had_is_no_target_again(
    table: tuple[PinnedTable, Windows], tmp_path: Path, exclude: bool, expected: list[int]
) -> None:
    """0 is padding, items below 0 are inputs alone; weights stay with their targets."""
    rows = np.array([[0, -7, 5, 5, 3, 7, 3, 9], [1, 2, 1, 2, 4, 4, 1, 8]], dtype=np.int32)
    batch = make_batch(rows, None)
    batch = dataclasses.replace(batch, weights=batch.items.float() / 10)
    job = make_job(tmp_path, table[0], f"train.exclude_own_items={str(exclude).lower()}")
    objective = NextItem(job, torch.device("cpu"))
    wanted = objective.choose(batch)
    assert wanted.weights is not None
    assert wanted.targets.tolist() == expected
    assert wanted.weights.tolist() == pytest.approx([target / 10 for target in expected])
    assert next_items(wanted.batch)[1].tolist() == expected
    assert objective.popular(batch)[0].tolist() == expected


def test_validation_by_the_settings_leaves_repeats_out(
    table: tuple[PinnedTable, Windows], tmp_path: Path
) -> None:
    batch = make_batch(np.array([[1, 2, 3, 2, 1], [4, 5, 5, 4, 4]], dtype=np.int32), None)
    first = dataclasses.replace(batch, positions=torch.tensor([0, 1, 4]))
    cpu, alone = torch.device("cpu"), SingleProcess()
    for exclude, expected in ((True, first), (False, batch)):
        job = make_job(tmp_path, table[0], f"train.exclude_own_items={str(exclude).lower()}")
        model = make_model(job)
        found = NextItem(job, cpu).validate(model, [batch], alone)
        assert found == validate(model, [expected], alone, cpu, exclude)


def test_a_model_that_diverged_finds_nothing(
    table: tuple[PinnedTable, Windows], tmp_path: Path
) -> None:
    model = make_model(make_job(tmp_path, table[0]))
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(math.nan)
    batch = make_batch(make_windows(4, 9, np.random.default_rng(0))["items"], None)
    found = validate(model, [batch], SingleProcess(), torch.device("cpu"))
    assert (found[NDCG], found[HIT_RATE]) == (0, 0)
    assert math.isnan(found[LOSS])
