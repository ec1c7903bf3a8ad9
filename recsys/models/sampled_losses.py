"""Losses on sampled negatives, for catalogues too large to score whole at every position.

As those in ``losses``, all return a SUM over positions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from recsys.models.losses import Excluded, chunk_positions, fill, product_dtype


class Negatives(NamedTuple):
    """Distinct items drawn for a step, shared by all its positions.

    Attributes:
        items: item_idx, ascending, int64 [negatives].
        log_inclusion: log of the probability that an item is among them, float32 [negatives].
    """

    items: Tensor
    log_inclusion: Tensor

    def to(self, device: torch.device) -> Negatives:
        """The same on ``device``."""
        return Negatives(self.items.to(device), self.log_inclusion.to(device))


class NegativeSampler:
    """Draws items with a probability proportional to their popularity to a power.

    Args:
        counts: how often each item is a target, [num_items + 1]; entry 0 is ignored. One is
            added to every count, so that no item is never drawn.
        exponent: 0 draws evenly, 1 as often as targets; Mikolov et al. 2013 (section 2.2) took
            0.75 for words.
    """

    def __init__(self, counts: Tensor, exponent: float) -> None:
        shares = (counts[1:].double() + 1.0) ** exponent
        self._shares = shares / shares.sum()
        self._bounds = self._shares.cumsum(0)

    def draw(self, count: int, generator: torch.Generator) -> Negatives:
        """The distinct ones of ``count`` independent draws, on the CPU (the same for any device).

        An item of share p is among them with probability 1 - (1 - p) ** count.
        """
        points = torch.rand(count, generator=generator, dtype=torch.float64)
        drawn = torch.searchsorted(self._bounds, points * self._bounds[-1], right=True)
        columns = drawn.clamp_(max=len(self._shares) - 1).unique()
        inclusion = -torch.expm1(count * torch.log1p(-self._shares[columns].clamp(max=1 - 1e-12)))
        return Negatives(columns + 1, inclusion.log().float())


def sampled_softmax_loss(
    hidden: Tensor,
    item_vectors: Tensor,
    targets: Tensor,
    negatives: Negatives,
    weights: Tensor | None = None,
    excluded: Excluded | None = None,
) -> Tensor:
    """Weighted sum of cross-entropies against the target and shared negatives, a float32 scalar.

    The softmax's sum over other items is estimated from the sample: each negative stands for
    1 / (its probability to be drawn) items, so the log of that is added to its logit ("logQ
    correction"). A negative that is the position's own target counts nothing. The target itself
    is certain, so its logit is not corrected. Logits are made a chunk of positions at a time.

    Args:
        hidden: float [positions, dims], real positions only.
        item_vectors: float [num_items + 1, dims], row 0 is padding.
        targets: int64 [positions], 1 to num_items.
        negatives: of ``NegativeSampler.draw``.
        weights: float [positions]; None weighs all alike.
        excluded: items that are nobody's negatives, see ``losses.Excluded``.

    Source: Bengio and Senécal 2008, section III; Horvitz and Thompson 1952 for distinct draws;
    Khrylchenko et al. 2025, "Correcting the LogQ Correction", for the target.
    """
    return _sum_losses(_softmax, hidden, item_vectors, targets, negatives, weights, excluded)


def sampled_binary_loss(
    hidden: Tensor,
    item_vectors: Tensor,
    targets: Tensor,
    negatives: Negatives,
    weights: Tensor | None = None,
    excluded: Excluded | None = None,
    power: float = 1.0,
) -> Tensor:
    """Generalised binary cross-entropy (gBCE) of the target and shared negatives, a scalar.

    -power * log s(target) - sum of log(1 - s(negative)), s the logistic function.

    Args:
        power: of ``calibrate``; 1 is plain binary cross-entropy.

    Source: Petrov and Macdonald 2023, "gSASRec", section 5. Other arguments as above.
    """

    def binary(logits: Tensor, own: Tensor, correction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        losses = functional.softplus(logits).sum(dim=1, keepdim=True)
        losses += power * functional.softplus(-own)
        return losses, torch.sigmoid(logits), power * (torch.sigmoid(own) - 1.0)

    return _sum_losses(binary, hidden, item_vectors, targets, negatives, weights, excluded)


def calibrate(share: float, calibration: float) -> float:
    """The power of gBCE: a (t (1 - 1/a) + 1/a), which is 1 - t (1 - a).

    Plain binary cross-entropy is overconfident where most items are never seen as negatives.

    Args:
        share: a, the share of the other items that is drawn, 0 to 1.
        calibration: t, from 0 (plain) to 1 (probabilities as a full softmax would give).
    """
    return 1.0 - calibration * (1.0 - share)


LossAndErrors = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""From logits of negatives [positions, negatives] (may be overwritten), of targets [positions, 1]
and log-correction [negatives] to losses [positions, 1] and their derivatives by both logits."""


def _softmax(logits: Tensor, own: Tensor, correction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    logits += correction
    highest = torch.maximum(logits.amax(dim=1, keepdim=True), own)
    others, itself = logits.sub_(highest).exp_(), (own - highest).exp()
    sums = others.sum(dim=1, keepdim=True) + itself
    return sums.log() + highest - own, others.div_(sums), itself / sums - 1.0


def _sum_losses(
    measure: LossAndErrors,
    hidden: Tensor,
    item_vectors: Tensor,
    targets: Tensor,
    negatives: Negatives,
    weights: Tensor | None,
    excluded: Excluded | None,
) -> Tensor:
    # Through embedding: its gradient adds repeated rows up in a fixed order.
    chosen = functional.embedding(targets, item_vectors)
    others = functional.embedding(negatives.items, item_vectors)
    # What is no negative of a position is written to one column too many.
    others = functional.pad(others, (0, 0, 0, 1))
    loss: Tensor = _SampledLoss.apply(
        hidden, chosen, others, targets, negatives, weights, excluded, measure
    )
    return loss


class _SampledLoss(torch.autograd.Function):
    """Loss and gradients in one pass, a chunk of positions at a time, as in ``losses``."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        chosen: Tensor,
        others: Tensor,
        targets: Tensor,
        negatives: Negatives,
        weights: Tensor | None,
        excluded: Excluded | None,
        measure: LossAndErrors,
    ) -> Tensor:
        dtype = product_dtype(hidden)
        states, vectors = hidden.to(dtype), others.to(dtype)
        gradients = torch.zeros_like(hidden), torch.zeros_like(chosen), torch.zeros_like(others)
        correction = functional.pad(-negatives.log_inclusion, (0, 1))
        total = hidden.new_zeros((), dtype=torch.float32)
        size = chunk_positions(len(others), hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(states), size):
                part = slice(start, start + size)
                own = (hidden[part].float() * chosen[part].float()).sum(dim=1, keepdim=True)
                logits = (states[part] @ vectors.T).float()
                fill(logits, _no_negatives(negatives, targets, excluded, part))
                logits[:, -1] = -torch.inf
                losses, error, own_error = measure(logits, own, correction)
                if weights is not None:
                    worth = weights[part, None]
                    losses, error, own_error = losses * worth, error * worth, own_error * worth
                total += losses.sum()
                error = error.to(dtype)
                gradients[0][part] = error @ vectors + own_error * chosen[part]
                gradients[1][part] = own_error * hidden[part]
                gradients[2].add_(error.T @ states[part])
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        own = (saved * gradients[0] for saved in ctx.saved_tensors)
        return *own, None, None, None, None, None


def _no_negatives(
    negatives: Negatives, targets: Tensor, excluded: Excluded | None, part: slice
) -> Tensor:
    """Columns, int64 [positions, width], of what is no negative here; else one beyond the last."""
    items = targets[part, None]
    if excluded is not None:
        items = torch.cat([excluded.of(part), items], dim=1)
    beyond = len(negatives.items)
    if not beyond:
        return torch.zeros_like(items)
    columns = torch.searchsorted(negatives.items, items).clamp_(max=beyond - 1)
    return columns.masked_fill_(negatives.items[columns] != items, beyond)
