"""The chunked softmax against torch's own, with items left out."""

import math

import pytest
import torch
from torch.nn import functional

from recsys.models.losses import Excluded, chunk_positions, full_softmax_loss

pytestmark = pytest.mark.torch


def example(items: int = 30) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(23, 8, generator=generator, requires_grad=True)
    vectors = torch.randn(items + 1, 8, generator=generator, requires_grad=True)
    return hidden, vectors, torch.randint(1, items + 1, (23,), generator=generator)


@pytest.mark.parametrize("positions_at_once", [1, 5, 23, 1000, None])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_cross_entropy_with_its_gradients(
    positions_at_once: int | None, weighted: bool
) -> None:
    hidden, vectors, targets = example()
    weights = torch.rand(23) if weighted else torch.ones(23)
    logits = (hidden @ vectors.T)[:, 1:]
    expected = (functional.cross_entropy(logits, targets - 1, reduction="none") * weights).sum()
    wanted = torch.autograd.grad(expected * 0.3, (hidden, vectors))
    loss = full_softmax_loss(
        hidden,
        vectors,
        targets,
        weights if weighted else None,
        positions_at_once=positions_at_once,
    )
    found = torch.autograd.grad(loss * 0.3, (hidden, vectors))
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(found, wanted)
    assert not found[1][0].any()


def test_large_logits_stay_finite() -> None:
    hidden, vectors, targets = example()
    loss = full_softmax_loss(hidden * 1e3, vectors, targets)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, (hidden, vectors)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_target_without_any_share_has_its_loss(dtype: torch.dtype) -> None:
    """Its softmax is below what the type holds: exp(-200)."""
    hidden, vectors = torch.ones(2, 1), torch.tensor([[0.0], [200.0], [0.0]])
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        loss = full_softmax_loss(hidden, vectors, torch.tensor([1, 2]))
    assert loss.item() == pytest.approx(200.0)


def test_under_autocast_products_are_bf16_and_the_sum_is_close() -> None:
    hidden, vectors, targets = example()
    exact = full_softmax_loss(hidden, vectors, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = full_softmax_loss(hidden, vectors, targets)
    assert rounded.dtype == torch.float32
    assert rounded != exact
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_large_catalogue_does_not_overflow(dtype: torch.dtype) -> None:
    """All logits alike: the softmax's sum is 70,000, more than float16 holds."""
    items = 70_000
    hidden, vectors = torch.ones(3, 8, requires_grad=True), torch.zeros(items + 1, 8)
    vectors.requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        loss = full_softmax_loss(hidden, vectors, torch.tensor([1, 2, 2]))
    assert loss.item() == pytest.approx(3 * math.log(items), rel=1e-3)
    _, by_item = torch.autograd.grad(loss, (hidden, vectors))
    expected = torch.full((items + 1, 8), 3 / items)
    expected[0], expected[1], expected[2] = 0.0, 3 / items - 1, 3 / items - 2
    torch.testing.assert_close(by_item, expected, rtol=0.01, atol=1e-7)


def test_without_gradients() -> None:
    hidden, vectors, targets = example()
    with torch.no_grad():
        loss = full_softmax_loss(hidden, vectors, targets)
    torch.testing.assert_close(loss, full_softmax_loss(hidden, vectors, targets).detach())


def test_no_positions_cost_nothing() -> None:
    hidden, vectors, targets = example()
    loss = full_softmax_loss(hidden[:0], vectors, targets[:0])
    assert loss.item() == 0.0
    assert not torch.autograd.grad(loss, vectors)[0].any()


def test_chunks_bound_memory() -> None:
    cpu = torch.device("cpu")
    assert chunk_positions(1_000, cpu) * 1_000 <= 1 << 21
    assert chunk_positions(10_000_000, cpu) == 64


def test_excluded_items_are_no_alternatives_but_the_target_stays() -> None:
    hidden, vectors, targets = example()
    rows = torch.arange(23) % 3
    items = torch.tensor([[0, 4, 9], [0, 0, 7], [1, 2, 3]])
    items[0, 2] = targets[0]  # a target among what its row excludes
    banned = torch.zeros(23, 31, dtype=torch.bool)
    for position, row in enumerate(rows):
        banned[position, items[row]] = True
        banned[position, targets[position]] = False
    banned[:, 0] = True
    logits = (hidden @ vectors.T).masked_fill(banned, -torch.inf)
    expected = functional.cross_entropy(logits, targets, reduction="sum")
    loss = full_softmax_loss(
        hidden, vectors, targets, excluded=Excluded(items, rows), positions_at_once=4
    )
    torch.testing.assert_close(loss, expected)
    wanted = torch.autograd.grad(expected, (hidden, vectors))
    torch.testing.assert_close(torch.autograd.grad(loss, (hidden, vectors)), wanted)
