"""Terms of pre-training: known answers, against numpy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from recsys.models import losses
from recsys.models.items import Links
from recsys.models.self_supervision import (
    attribute_loss,
    contrastive_loss,
    draw_view,
    start_from_rates,
)

pytestmark = pytest.mark.torch


def test_views_are_parts_masks_and_permutations_of_a_sequence() -> None:
    torch.manual_seed(1)
    lengths = torch.tensor([10, 7, 2, 1]).repeat(50)
    column = torch.arange(10)
    items = (column + 1) * (column >= 10 - lengths[:, None])
    view = draw_view(items, 0.5, 0.4, 0.6)
    found = {"same": 0, "cropped": 0, "masked": 0, "reordered": 0}
    for row, made in enumerate(view.of(items).tolist()):
        before = [item for item in items[row].tolist() if item]
        after = [item for item in made if item]
        assert made == [0] * (10 - len(after)) + after  # zeros in front
        hidden = view.masked[row]
        assert not (hidden & ~view.kept[row]).any()
        if len(after) < len(before):
            assert len(after) == max(1, len(before) // 2)
            assert after == list(range(after[0], after[0] + len(after)))
            assert not hidden.any()
            found["cropped"] += 1
        elif hidden.any():
            assert after == before
            found["masked"] += 1
        elif after != before:
            moved = [n for n, (a, b) in enumerate(zip(after, before, strict=True)) if a != b]
            assert sorted(after) == before
            assert moved[-1] - moved[0] < int(0.6 * len(before))
            found["reordered"] += 1
        else:
            found["same"] += 1
    assert min(found.values()) > 10


def test_views_of_nothing_are_nothing() -> None:
    view = draw_view(torch.zeros(0, 5, dtype=torch.int64), 0.5, 0.5, 0.5)
    assert view.of(torch.zeros(0, 5, dtype=torch.int64)).shape == (0, 5)


def test_contrastive_loss_is_that_of_the_formula() -> None:
    dice = np.random.default_rng(1)
    first, second = dice.normal(size=(2, 4, 6))
    weights, t = np.array([1.0, 0.0, 2.0, 0.5]), 0.3
    both = [v / np.linalg.norm(v) for v in np.concatenate([first, second])]
    expected = 0.0
    for row in range(4):
        for one, other in ((row, row + 4), (row + 4, row)):
            shares = [np.exp(both[one] @ v / t) for n, v in enumerate(both) if n != one]
            own = np.exp(both[one] @ both[other] / t)
            expected -= weights[row] * np.log(own / sum(shares)) / 2
    loss = contrastive_loss(*map(torch.tensor, (first, second)), t, torch.tensor(weights))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_one_pair_alone_has_no_contrast() -> None:
    vectors = torch.randn(2, 1, 4, requires_grad=True)
    loss = contrastive_loss(vectors[0], vectors[1], 0.5)
    assert loss.item() == 0.0
    loss.backward()
    assert not vectors.grad.any()  # type: ignore[union-attr]


@pytest.mark.parametrize("chunk", [1, 64])
def test_attribute_loss_is_the_sum_of_binary_cross_entropies(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "_MIN_CHUNK", chunk)
    monkeypatch.setitem(losses.CHUNK_ELEMENTS, "cpu", chunk)
    torch.manual_seed(1)
    output, hidden = nn.Linear(5, 3), torch.randn(4, 5, requires_grad=True)
    wanted = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]])  # the second one is unknown
    offsets, columns = torch.tensor([0, 2, 2, 3, 6]), torch.tensor([0, 2, 1, 0, 1, 2])
    weights = np.array([1.0, 5.0, 2.0, 0.5])
    loss = attribute_loss(output, hidden, offsets, columns, torch.tensor(weights))
    chances = 1 / (1 + np.exp(-output(hidden).detach().double().numpy()))
    each = -(wanted * np.log(chances) + (1 - wanted) * np.log(1 - chances)).sum(axis=1)
    expected = (each * weights * wanted.any(axis=1)).sum()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    error = (chances - wanted) * (weights * wanted.any(axis=1))[:, None]
    np.testing.assert_allclose(output.bias.grad, error.sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(
        hidden.grad, error @ output.weight.detach().numpy(), rtol=1e-5, atol=1e-6
    )


def test_attributes_start_at_their_rates() -> None:
    output = nn.Linear(4, 2)
    links = Links(torch.tensor([0, 0, 1, 2, 4, 4]), torch.tensor([0, 0, 0, 1]), torch.ones(4))
    start_from_rates(output, links)  # of four items three have the first, one the second
    np.testing.assert_allclose(torch.sigmoid(output.bias).detach(), [0.75, 0.25], rtol=1e-6)
