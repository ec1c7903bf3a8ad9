"""Losses over a catalogue of items: cross-entropy on all of them or on sampled negatives.

All return a SUM over positions; the caller divides by the number of positions of all ranks, so
that the gradient does not depend on how positions are spread over ranks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

CHUNK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 25}
"""Logits held at once by device: on a CPU as many as its cache holds (4 MiB in float32), where
every further pass over them is cheap; on a GPU enough to keep it busy (128 MiB)."""

_MIN_CHUNK = 64


def chunk_positions(num_items: int, device: torch.device) -> int:
    """Positions whose logits over ``num_items`` are made at once, at least 64."""
    elements = CHUNK_ELEMENTS.get(device.type, CHUNK_ELEMENTS["cpu"])
    return max(_MIN_CHUNK, elements // max(1, num_items))


class Excluded(NamedTuple):
    """Items that are no alternative to a position's target, such as those the user had already.

    Attributes:
        items: item_idx, int64 [rows, width]; 0 is no item.
        rows: row of each position, int64 [positions]. A position's own target stays.
    """

    items: Tensor
    rows: Tensor

    def of(self, part: slice) -> Tensor:
        """item_idx int64 [positions, width] for a part of the positions."""
        return self.items.index_select(0, self.rows[part])


def full_softmax_loss(
    hidden: Tensor,
    item_vectors: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    excluded: Excluded | None = None,
    positions_at_once: int | None = None,
) -> Tensor:
    """Sum of -weight * log softmax(hidden · items)[target] over positions, a float32 scalar.

    Padding (item 0) is not in the softmax. Logits are made and turned into gradients one chunk
    of positions at a time, so memory is bounded whatever the number of positions; the gradients
    cost no second pass over the logits. Under autocast the products run in its type.

    Args:
        hidden: float [positions, dims], real positions only.
        item_vectors: float [num_items + 1, dims], row 0 is padding.
        targets: int64 [positions], 1 to num_items.
        weights: float [positions]; None weighs all alike.
        excluded: items left out of each position's softmax; None leaves out none.
        positions_at_once: size of a chunk; None takes ``chunk_positions``.

    Source of the fusion: Hsu et al. 2024, "Liger Kernel", section 3.2 (FusedLinearCrossEntropy).
    """
    size = positions_at_once or chunk_positions(len(item_vectors) - 1, hidden.device)
    loss: Tensor = _FullSoftmax.apply(hidden, item_vectors, targets, weights, excluded, size)
    return loss


class _FullSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        item_vectors: Tensor,
        targets: Tensor,
        weights: Tensor | None,
        excluded: Excluded | None,
        positions_at_once: int,
    ) -> Tensor:
        dtype = product_dtype(hidden)
        states, items = hidden.to(dtype), item_vectors.to(dtype)
        wants_gradient = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        state_gradient = torch.zeros_like(hidden) if wants_gradient else None
        item_gradient = torch.zeros_like(item_vectors) if wants_gradient else None
        total = hidden.new_zeros((), dtype=torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(states), positions_at_once):
                part = slice(start, start + positions_at_once)
                wanted = targets[part, None]
                logits = exclude(states[part] @ items.T, wanted, excluded, part)
                losses, error = _loss_and_error(logits, wanted)
                if weights is not None:
                    losses, error = losses * weights[part, None], error * weights[part, None]
                total += losses.sum()
                if state_gradient is None or item_gradient is None:
                    continue
                error = error.to(dtype)
                state_gradient[part] = error @ items
                item_gradient += error.T @ states[part]
        ctx.save_for_backward(state_gradient, item_gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        state_gradient, item_gradient = ctx.saved_tensors
        by_state, by_item = state_gradient * gradients[0], item_gradient * gradients[0]
        return by_state, by_item, None, None, None, None


def exclude(logits: Tensor, wanted: Tensor, excluded: Excluded | None, part: slice) -> Tensor:
    """Set the logits of padding and of excluded items to -inf, in place, but never the target's.

    Args:
        logits: [positions, num_items + 1] of the positions in ``part``.
        wanted: item_idx of each target, int64 [positions, 1].
        excluded: of all positions.
        part: which of all positions these are.
    """
    if excluded is not None:
        kept = logits.gather(1, wanted)
        logits.scatter_(1, excluded.of(part), -torch.inf).scatter_(1, wanted, kept)
    logits[:, 0] = -torch.inf
    return logits


def _loss_and_error(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy float32 [positions, 1] and its gradient by the logits (softmax - one-hot).

    Args:
        logits: [positions, columns], may be overwritten.
        wanted: column of each target, int64 [positions, 1].
    """
    minus_one = torch.full_like(wanted, -1.0, dtype=torch.float32)
    if logits.device.type == "cpu":
        # In place, with one exponential an entry: on a CPU that is what costs.
        logits = logits.float()
        target_logits = logits.gather(1, wanted)
        highest = logits.amax(dim=1, keepdim=True)
        sums = logits.sub_(highest).exp_().sum(dim=1, keepdim=True)
        losses = sums.log() + highest - target_logits
        return losses, logits.div_(sums).scatter_add_(1, wanted, minus_one)
    # Few kernels: on a GPU passes over memory are what costs.
    log_shares = torch.log_softmax(logits, dim=1, dtype=torch.float32)
    losses = -log_shares.gather(1, wanted)
    return losses, log_shares.exp_().scatter_add_(1, wanted, minus_one)


def product_dtype(hidden: Tensor) -> torch.dtype:
    """Type that products run in here: autocast's where it is on."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
