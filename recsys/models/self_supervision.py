"""Self-supervised terms beside next-item prediction: views of a sequence, masks, attributes.

As the losses, all return a SUM; randomness comes from torch's global generator.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from recsys.models.items import Links
from recsys.models.losses import chunk_positions

_OPERATIONS = 3
_SMALLEST_RATE = 1e-4


class View(NamedTuple):
    """A changed copy of some sequences that are padded in front.

    Attributes:
        source: column that each place takes its event from, int64 [rows, length].
        kept: places that hold an event, the others are padding, bool [rows, length].
        masked: places whose item is hidden, bool [rows, length].
    """

    source: Tensor
    kept: Tensor
    masked: Tensor

    def of(self, values: Tensor) -> Tensor:
        """``values`` [rows, length] of the events of the view; 0 at padding."""
        return values.gather(1, self.source) * self.kept

    def to(self, device: torch.device) -> View:
        """The same on ``device``."""
        return View(*(part.to(device, non_blocking=True) for part in self))


def draw_view(items: Tensor, crop_share: float, mask_share: float, reorder_share: float) -> View:
    """Of each sequence, drawn evenly: a part of it, some items hidden, or a part in any order.

    Args:
        items: item_idx, int [rows, length], zeros in front.
        crop_share: length of the part that is left; at least one event is.
        mask_share: chance of an item to be hidden.
        reorder_share: length of the part that is shuffled.

    Source: Xie et al. 2022, "Contrastive Learning for Sequential Recommendation" (CL4SRec),
    section 3.3.
    """
    rows, length = items.shape
    real, column = items > 0, torch.arange(length).expand(rows, length)
    count = real.sum(dim=1, keepdim=True)
    first = length - count
    operation = torch.randint(_OPERATIONS, (rows, 1))
    crop, mask, reorder = (operation == number for number in range(_OPERATIONS))

    size = torch.where(crop, crop_share * count, reorder_share * count).long()
    size = torch.where(crop, size.clamp(min=1), size).minimum(count)
    start = first + (torch.rand(rows, 1) * (count - size + 1)).long()

    cropped = column - (length - size) + start
    inside = (column >= start) & (column < start + size)
    keys = torch.where(inside, start + torch.rand(rows, length) * size, column.float())
    shuffled = keys.argsort(dim=1, stable=True)
    source = torch.where(crop, cropped, torch.where(reorder, shuffled, column))
    kept = torch.where(crop, column >= length - size, real)
    masked = mask & kept & (torch.rand(rows, length) < mask_share)
    return View(source.clamp(min=0, max=max(0, length - 1)), kept, masked)


def contrastive_loss(
    first: Tensor, second: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """Weighted sum of InfoNCE over pairs, each against the other pairs of the batch, a scalar.

    With the cosine s of two vectors: -log(exp(s(a, b) / t) / sum of exp(s(a, c) / t) over all
    vectors c but a itself), the mean of both directions of a pair.

    Args:
        first, second: float [rows, dims], two views of each row.
        temperature: t.
        weights: float [rows]; None weighs all alike.

    Source: Chen et al. 2020, "SimCLR", equation 1; Xie et al. 2022, "CL4SRec", equation 3.
    """
    rows = len(first)
    with torch.autocast(first.device.type, enabled=False):
        vectors = functional.normalize(torch.cat([first, second]).float(), dim=1)
        logits = vectors @ vectors.T / temperature
        itself = torch.eye(2 * rows, dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(itself, -torch.inf)
        other = torch.arange(2 * rows, device=logits.device).roll(rows)
        losses = functional.cross_entropy(logits, other, reduction="none").view(2, rows).mean(dim=0)
    return losses.sum() if weights is None else (losses * weights).sum()


def attribute_loss(
    output: nn.Linear,
    hidden: Tensor,
    offsets: Tensor,
    columns: Tensor,
    weights: Tensor | None = None,
) -> Tensor:
    """Weighted sum of the binary cross-entropies of all attributes at each position, a scalar.

    Summed over attributes, so that it is the -log of the probability of the whole set, as the
    next item's loss is of the item. Positions without any attribute count nothing: nobody knows
    theirs. Logits are made a chunk of positions at a time, and again for their gradients.

    Args:
        output: makes a logit for each attribute.
        hidden: float [positions, dims].
        offsets, columns: position i has the attributes columns[offsets[i] : offsets[i + 1]], int64.
        weights: float [positions]; None weighs all alike.

    Source: Zhou et al. 2020, "S3-Rec", section 4.1 (AAP), there of the item's own attributes.
    """
    counts = offsets[1:] - offsets[:-1]
    worth = (counts > 0).float() if weights is None else (counts > 0) * weights

    def measure(states: Tensor, rows: Tensor, own: Tensor, worth: Tensor) -> Tensor:
        logits = output(states).float()
        every = (functional.softplus(logits).sum(dim=1) * worth).sum()
        return every - (logits[rows, own] * worth[rows]).sum()

    total = hidden.new_zeros((), dtype=torch.float32)
    size = chunk_positions(output.out_features, hidden.device)
    bounds = offsets[::size].tolist() + offsets[-1:].tolist()
    for number, start in enumerate(range(0, len(hidden), size)):
        part = slice(start, start + size)
        own = columns[bounds[number] : bounds[number + 1]]
        chosen = counts[part]
        rows = torch.repeat_interleave(torch.arange(len(chosen), device=chosen.device), chosen)
        total = total + checkpoint(
            measure, hidden[part], rows, own, worth[part], use_reentrant=False,
            preserve_rng_state=False,
        )  # fmt: skip
    return total


@torch.no_grad()
def start_from_rates(output: nn.Linear, links: Links) -> None:
    """Let the biases predict how many items have each attribute, before anything is learned."""
    items = max(1, len(links.offsets) - 2)
    shares = torch.bincount(links.columns, minlength=output.out_features) / items
    shares = shares.clamp(_SMALLEST_RATE, 1.0 - _SMALLEST_RATE)
    output.bias.copy_(torch.logit(shares))
