"""Losses over a catalogue of items: cross-entropy on all of them or on sampled negatives.

All return a SUM over positions; the caller divides by the number of positions of all ranks, so
that the gradient does not depend on how positions are spread over ranks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

CHUNK_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 25}
"""Logits held at once by device: on a CPU as many as its cache holds (4 MiB in bfloat16), where
every further pass over them is cheap; on a GPU enough to keep it busy (128 MiB in float32)."""

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
        ctx.gradients = None
        if wants_gradient:
            ctx.gradients = torch.empty_like(hidden), torch.zeros_like(item_vectors)
        total = hidden.new_zeros((), dtype=torch.float32)
        room = items.new_empty(min(len(states), positions_at_once), len(items))
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(states), positions_at_once):
                part = slice(start, start + positions_at_once)
                wanted = targets[part, None]
                logits = torch.mm(states[part], items.T, out=room[: len(wanted)])
                exclude(logits, wanted, excluded, part)
                losses, shares, worth = _measure(logits, wanted, states[part], items)
                if weights is not None:
                    losses, worth = losses * weights[part, None], worth * weights[part, None]
                total += losses.sum()
                if ctx.gradients is not None:
                    ctx.gradients[0][part] = (shares @ items).float() * worth
                    ctx.gradients[1].add_(shares.T @ (hidden[part] * worth).to(dtype))
            if ctx.gradients is not None:
                subtract_targets(ctx.gradients, hidden, item_vectors, targets, weights)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # Scaled where they are: they are as large as the catalogue, and asked for once.
        by_state, by_item = (saved.mul_(gradients[0]) for saved in ctx.gradients)
        ctx.gradients = None
        return by_state, by_item, None, None, None, None


def subtract_targets(
    gradients: tuple[Tensor, Tensor],
    hidden: Tensor,
    item_vectors: Tensor,
    targets: Tensor,
    weights: Tensor | None,
) -> None:
    """The part of the gradients that comes from the targets' own logits, in full precision."""
    own, states = item_vectors.index_select(0, targets), hidden
    if weights is not None:
        own, states = own * weights[:, None], states * weights[:, None]
    by_state, by_item = gradients
    by_state.sub_(own)
    if by_item.device.type == "cpu":
        by_item.index_add_(0, targets, states.to(by_item.dtype), alpha=-1)
    else:  # whose index_add_ adds repeated rows up in any order
        rows = len(by_item)
        by_item.sub_(torch.ops.aten.embedding_dense_backward(states, targets, rows, -1, False))


def exclude(logits: Tensor, wanted: Tensor, excluded: Excluded | None, part: slice) -> Tensor:
    """Set the logits of padding and of excluded items to -inf, in place, but never the target's.

    Args:
        logits: [positions, num_items + 1] of the positions in ``part``.
        wanted: item_idx of each target, int64 [positions, 1].
        excluded: of all positions.
        part: which of all positions these are.
    """
    if excluded is not None:
        kept = logits.gather(1, wanted)[:, 0]
        fill(logits, excluded.of(part))
        first = torch.arange(len(logits), device=logits.device) * logits.shape[1]
        logits.view(-1).index_copy_(0, first + wanted[:, 0], kept)
    logits[:, 0] = -torch.inf
    return logits


def fill(logits: Tensor, columns: Tensor) -> None:
    """Set some columns of each row, int64 [rows, count], to -inf, in place.

    By flat index: ``scatter_`` copies the whole matrix twice in bfloat16.
    """
    first = torch.arange(len(logits), device=logits.device)[:, None] * logits.shape[1]
    logits.view(-1).index_fill_(0, (first + columns).view(-1), -torch.inf)


def _measure(
    logits: Tensor, wanted: Tensor, states: Tensor, items: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy, and the softmax as a product of two factors.

    Passes over the logits are what costs, so they are few, and in the products' type.

    Args:
        logits: [positions, columns], overwritten.
        wanted: column of each target, int64 [positions, 1].
        states, items: [positions, dims] and [columns, dims], whose product the logits are.

    Returns:
        losses float32 [positions, 1]; shares [positions, columns] and worth float32
        [positions, 1], whose product is the softmax.
    """
    if logits.dtype == torch.float16:  # which can not hold the sums of a large catalogue
        logs = torch.log_softmax(logits, dim=1, dtype=torch.float32)
        return -logs.gather(1, wanted), logs.exp().to(logits.dtype), torch.ones_like(logs[:, :1])
    if logits.device.type == "cpu":
        return _measure_on_cpu(logits, wanted, states, items)
    own = logits.gather(1, wanted).float()
    highest = logits.amax(dim=1, keepdim=True)
    shares = logits.sub_(highest).exp_()
    # torch adds up in float32 and rounds the result; asked for float32, it would copy the matrix.
    sums = shares.sum(dim=1, keepdim=True).float()
    return sums.log() + highest.float() - own, shares, sums.reciprocal()


def _measure_on_cpu(
    logits: Tensor, wanted: Tensor, states: Tensor, items: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """By torch's softmax, whose passes over a row find it in the core's own cache."""
    own = logits.gather(1, wanted).float()
    # In place: it reads a row before it writes it, and a second matrix would leave the cache.
    shares = torch.softmax(logits, dim=1, out=logits)
    losses = -shares.gather(1, wanted).float().log()
    missed = losses[:, 0].isinf()
    if missed.any():  # a share too small for the type: by the largest one instead
        largest, columns = shares[missed].float().max(dim=1, keepdim=True)
        highest = (states[missed].float() * items[columns[:, 0]].float()).sum(dim=1, keepdim=True)
        losses[missed] = highest - largest.log() - own[missed]
    return losses, shares, torch.ones_like(losses)


def product_dtype(hidden: Tensor) -> torch.dtype:
    """Type that products run in here: autocast's where it is on."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
