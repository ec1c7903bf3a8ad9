"""Losses on sampled negatives against plain formulas, and against the full softmax."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from recsys.models.losses import Excluded, full_softmax_loss
from recsys.models.sampled_losses import (
    Negatives,
    NegativeSampler,
    calibrate,
    sampled_binary_loss,
    sampled_softmax_loss,
)

pytestmark = pytest.mark.torch

POSITIONS = 23


def example(items: int = 30) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(POSITIONS, 8, generator=generator, requires_grad=True)
    vectors = torch.randn(items + 1, 8, generator=generator, requires_grad=True)
    return hidden, vectors, torch.randint(1, items + 1, (POSITIONS,), generator=generator)


def draw(items: int, count: int, exponent: float = 0.0, seed: int = 5) -> Negatives:
    sampler = NegativeSampler(torch.arange(items + 1), exponent)
    return sampler.draw(count, torch.Generator().manual_seed(seed))


def excluded() -> Excluded:
    items = torch.tensor([[0, 4, 9], [0, 0, 7], [1, 2, 3]])
    return Excluded(items, torch.arange(POSITIONS) % 3)


def plain_logits(
    hidden: torch.Tensor, vectors: torch.Tensor, targets: torch.Tensor, negatives: Negatives
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of negatives (-inf where they are none) and of targets, without any trick."""
    logits = hidden @ vectors[negatives.items].T
    left_out = excluded()
    for position in range(POSITIONS):
        none = {int(targets[position]), *left_out.items[left_out.rows[position]].tolist()}
        for column, item in enumerate(negatives.items.tolist()):
            if item in none:
                logits[position, column] = -torch.inf
    return logits, (hidden * vectors[targets]).sum(dim=1)


@pytest.mark.parametrize("weighted", [False, True])
def test_softmax_equals_the_plain_formula_with_its_gradients(weighted: bool) -> None:
    hidden, vectors, targets = example()
    negatives = draw(30, 12, exponent=0.7)
    weights = torch.rand(POSITIONS) if weighted else None
    logits, own = plain_logits(hidden, vectors, targets, negatives)
    both = torch.cat([own[:, None], logits - negatives.log_inclusion], dim=1)
    losses = torch.logsumexp(both, dim=1) - own
    expected = (losses if weights is None else losses * weights).sum()
    loss = sampled_softmax_loss(hidden, vectors, targets, negatives, weights, excluded())
    torch.testing.assert_close(loss, expected)
    wanted = torch.autograd.grad(expected * 0.3, (hidden, vectors))
    torch.testing.assert_close(torch.autograd.grad(loss * 0.3, (hidden, vectors)), wanted)


@pytest.mark.parametrize("calibration", [0.0, 0.75, 1.0])
def test_binary_loss_equals_the_plain_formula_with_its_gradients(calibration: float) -> None:
    hidden, vectors, targets = example()
    negatives = draw(30, 12)
    share = len(negatives.items) / 29
    power = share * (calibration * (1 - 1 / share) + 1 / share)
    logits, own = plain_logits(hidden, vectors, targets, negatives)
    expected = -power * functional.logsigmoid(own).sum() + functional.softplus(logits).sum()
    loss = sampled_binary_loss(
        hidden, vectors, targets, negatives, None, excluded(), calibrate(share, calibration)
    )
    torch.testing.assert_close(loss, expected)
    wanted = torch.autograd.grad(expected, (hidden, vectors))
    torch.testing.assert_close(torch.autograd.grad(loss, (hidden, vectors)), wanted)


@pytest.mark.parametrize("exponent", [0.0, 0.75])
def test_softmax_estimates_the_full_one(exponent: float) -> None:
    """From many draws, as the logarithm of an estimate is a little too small on average."""
    hidden, vectors, targets = example(items=200)
    full = full_softmax_loss(hidden, vectors, targets)
    losses = [
        sampled_softmax_loss(hidden, vectors, targets, draw(200, 1000, exponent, seed))
        for seed in range(40)
    ]
    assert torch.stack(losses).mean().item() == pytest.approx(full.item(), rel=0.01)


def test_all_items_as_negatives_give_the_full_softmax() -> None:
    hidden, vectors, targets = example()
    every = Negatives(torch.arange(1, 31), torch.zeros(30))
    torch.testing.assert_close(
        sampled_softmax_loss(hidden, vectors, targets, every),
        full_softmax_loss(hidden, vectors, targets),
    )


@pytest.mark.parametrize("loss", [sampled_softmax_loss, sampled_binary_loss])
def test_a_negative_that_is_the_target_counts_nothing(loss: Callable[..., Any]) -> None:
    hidden, vectors, targets = example()
    own = Negatives(targets[:1], torch.zeros(1))
    none = Negatives(targets[:0], torch.zeros(0))
    torch.testing.assert_close(
        sampled_softmax_loss(hidden[:1], vectors, targets[:1], own),
        sampled_softmax_loss(hidden[:1], vectors, targets[:1], none),
    )


def test_negatives_are_distinct_reproducible_and_drawn_as_often_as_they_say() -> None:
    sampler = NegativeSampler(torch.tensor([99.0, 0.0, 1.0, 3.0, 20.0]), exponent=1.0)
    first = sampler.draw(4, torch.Generator().manual_seed(3))
    again = sampler.draw(4, torch.Generator().manual_seed(3))
    assert torch.equal(first.items, again.items)
    generator = torch.Generator().manual_seed(0)
    seen, log_inclusion = torch.zeros(5), torch.zeros(5)
    for _ in range(4000):
        drawn = sampler.draw(4, generator)
        assert drawn.items.tolist() == sorted(set(drawn.items.tolist()))
        seen[drawn.items] += 1
        log_inclusion[drawn.items] = drawn.log_inclusion
    assert seen[0] == 0
    torch.testing.assert_close(seen[1:] / 4000, log_inclusion[1:].exp(), atol=0.03, rtol=0)


def test_under_autocast_products_are_bf16_and_the_sum_is_close() -> None:
    hidden, vectors, targets = example()
    exact = sampled_softmax_loss(hidden, vectors, targets, draw(30, 12))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = sampled_softmax_loss(hidden, vectors, targets, draw(30, 12))
    assert rounded != exact
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0)
