"""Dropout of random bytes: the share, the mean, the gradient, and the seed."""

import pytest
import torch

from recsys.models.dropout import Dropout, dropout

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("share", [0.1, 0.5, 0.6, 0.9])
def test_the_share_is_dropped_and_the_mean_stays(share: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(301, 997, requires_grad=True)
    found = dropout(x, share, training=True)
    dropped = (found == 0).float().mean().item()
    assert dropped == pytest.approx(share, abs=0.005)
    assert found.mean().item() == pytest.approx(1.0, abs=0.02)
    kept = found[found > 0]
    assert (kept == kept[0]).all()  # all scaled alike
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert torch.equal(gradient, found.detach())


def test_every_place_is_dropped_alike() -> None:
    """Eight bytes come from one random number: none of them may differ from the others."""
    torch.manual_seed(0)
    found = dropout(torch.ones(20_000, 16), 0.3, training=True)
    assert (found == 0).float().mean(dim=0) == pytest.approx([0.3] * 16, abs=0.02)


def test_the_seed_decides_and_evaluation_drops_nothing() -> None:
    x = torch.rand(50, 7)
    layer = Dropout(0.5)
    torch.manual_seed(3)
    first = layer(x)
    torch.manual_seed(3)
    assert torch.equal(first, layer(x))
    assert not torch.equal(first, layer(x))
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(dropout(x, 0.0, training=True), x)


def test_bf16_stays_bf16() -> None:
    x = torch.ones(64, 64, dtype=torch.bfloat16)
    assert dropout(x, 0.25, training=True).dtype == torch.bfloat16
