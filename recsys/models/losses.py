"""Losses over a catalogue of items: cross-entropy on all of them or on sampled negatives.

Both return a SUM over positions; the caller divides by the number of positions of all ranks, so
that the gradient does not depend on how positions are spread over ranks.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CHUNK_ELEMENTS = 1 << 25
"""Logits held at once: 32 Mi, i.e. 128 MiB in float32."""


def full_softmax_loss(
    hidden: Tensor, item_vectors: Tensor, targets: Tensor, chunk_elements: int = CHUNK_ELEMENTS
) -> Tensor:
    """Sum of -log softmax(hidden · items)[target] over positions, a float32 scalar.

    Padding (item 0) is not in the softmax. Logits are made and turned into gradients one chunk
    of positions at a time, so memory is bounded by ``chunk_elements`` whatever the catalogue; the
    gradients cost no second pass over the logits. Under autocast the products run in its type.

    Args:
        hidden: float [positions, dims], real positions only.
        item_vectors: float [num_items + 1, dims], row 0 is padding.
        targets: int64 [positions], 1 to num_items.
        chunk_elements: most logits held at once (one position's at least).

    Source of the fusion: Hsu et al. 2024, "Liger Kernel", section 3.2 (FusedLinearCrossEntropy).
    """
    loss: Tensor = _FullSoftmax.apply(  # type: ignore[no-untyped-call]
        hidden, item_vectors, targets, chunk_elements
    )
    return loss


class _FullSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, item_vectors: Tensor, targets: Tensor, chunk_elements: int
    ) -> Tensor:
        dtype = _product_dtype(hidden)
        states, items = hidden.to(dtype), item_vectors[1:].to(dtype)
        wants_gradient = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        state_gradient = torch.zeros_like(hidden) if wants_gradient else None
        item_gradient = torch.zeros_like(item_vectors) if wants_gradient else None
        total = hidden.new_zeros((), dtype=torch.float32)
        step = max(1, chunk_elements // max(1, len(items)))
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(states), step):
                chunk, wanted = states[start : start + step], targets[start : start + step] - 1
                log_shares = torch.log_softmax((chunk @ items.T).float(), dim=1)
                total -= log_shares.gather(1, wanted[:, None]).sum()
                if state_gradient is None or item_gradient is None:
                    continue
                error = log_shares.exp_()
                error[torch.arange(len(wanted), device=wanted.device), wanted] -= 1.0
                error = error.to(dtype)
                state_gradient[start : start + step] = error @ items
                item_gradient[1:] += error.T @ chunk
        ctx.save_for_backward(state_gradient, item_gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        state_gradient, item_gradient = ctx.saved_tensors
        return state_gradient * gradients[0], item_gradient * gradients[0], None, None


def sample_negatives(num_items: int, count: int, generator: torch.Generator) -> Tensor:
    """Uniform item_idx with replacement, int64 [count], on the CPU (the same on any device)."""
    return torch.randint(1, num_items + 1, (count,), generator=generator)


def sampled_softmax_loss(
    hidden: Tensor, item_vectors: Tensor, targets: Tensor, negatives: Tensor
) -> Tensor:
    """Sum over positions of cross-entropy against the target and shared negatives, a scalar.

    The sum over other items in the softmax is estimated by importance sampling: each of the K
    uniform draws stands for num_items / K items (logit + log(num_items / K)), a draw that hits
    the position's own target counts nothing. The target itself is certain, so its logit is not
    corrected. Memory: positions x K logits.

    Args:
        hidden: float [positions, dims], real positions only.
        item_vectors: float [num_items + 1, dims], row 0 is padding.
        targets: int64 [positions], 1 to num_items.
        negatives: int64 [K] of ``sample_negatives``, shared by all positions.

    Source: Bengio and Senécal 2008, section III; Khrylchenko et al. 2025, "Correcting the LogQ
    Correction", for leaving the target uncorrected.
    """
    weight = math.log((len(item_vectors) - 1) / len(negatives))
    # Both through embedding: its gradient adds repeated rows up in a fixed order.
    chosen = functional.embedding(targets, item_vectors)
    others = functional.embedding(negatives, item_vectors)
    positive = (hidden.float() * chosen.float()).sum(dim=1, keepdim=True)
    negative = (hidden @ others.T).float() + weight
    negative = negative.masked_fill(targets[:, None] == negatives[None, :], -torch.inf)
    logits = torch.cat([positive, negative], dim=1)
    return (torch.logsumexp(logits, dim=1) - positive[:, 0]).sum()


def _product_dtype(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
