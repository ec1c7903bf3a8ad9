"""Softmax over a catalogue whose vectors lie on many ranks, which no rank ever holds whole.

Every rank gets the states of all ranks and scores them against its own items. What ranks tell each
other of the scores is two numbers a state: the log of the sum of exponentials over the rank's
items, and the score of the target where the rank has it. Source: Shoeybi et al. 2019,
"Megatron-LM", section 3 (the fused parallel cross-entropy); there the states are on all ranks
anyway, here they are gathered first, and the gradients of states are summed on the rank that each
came from.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recsys.models.losses import chunk_positions, product_dtype, subtract_targets
from recsys.train.sharding.owners import Owners


class Gathered(NamedTuple):
    """Positions of all ranks, one rank after the other.

    Attributes:
        hidden: float32 [all, dims].
        targets: item_idx, int64 [all].
        weights: float32 [all].
        counts: positions of each rank.
    """

    hidden: Tensor
    targets: Tensor
    weights: Tensor
    counts: list[int]


def gather(owners: Owners, hidden: Tensor, targets: Tensor, weights: Tensor | None) -> Gathered:
    """All ranks' positions on every rank, in two messages."""
    communicator = owners.communicator
    own = torch.tensor([len(targets)])
    counts = communicator.start_allgather(own, "softmax.counts")().tolist()
    worth = hidden.new_ones(len(targets), dtype=torch.float32) if weights is None else weights
    numbers = targets.to(torch.int32).view(torch.float32)  # the bits, not the value
    message = torch.cat([hidden.float(), worth[:, None], numbers[:, None]], dim=1)
    found = communicator.start_allgather(message, "softmax.positions")()
    items = found[:, -1].contiguous().view(torch.int32).long()
    return Gathered(found[:, :-2].contiguous(), items, found[:, -2].contiguous(), counts)


def sharded_softmax_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: Tensor | None,
    owners: Owners,
) -> Tensor:
    """Sum of -weight * log softmax(hidden · items)[target] over this rank's positions.

    Called by all ranks together, also without positions. Each rank's gradient must come with the
    same factor (the common divisor of the step): the gradient of ``weight`` is that of all ranks'
    losses.

    Args:
        hidden: float [positions, dims].
        weight: vectors of this rank's items, float32 [own, dims].
        targets: item_idx, int64 [positions].
        weights: float [positions]; None weighs all alike.
        owners: of the items.
    """
    loss: Tensor = _ShardedSoftmax.apply(hidden, weight, targets, weights, owners)
    return loss


class _ShardedSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        weights: Tensor | None,
        owners: Owners,
    ) -> Tensor:
        dtype = product_dtype(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            every = gather(owners, hidden, targets, weights)
            items = weight.to(dtype)
            partial = [logits.logsumexp(dim=1) for _, logits in _score(every.hidden, items, owners)]
            wanted = _score_targets(every, weight, owners)
            logs, scores = combine(owners, torch.cat(partial), wanted)
            losses = (logs - scores) * every.weights
            by_state, by_item = torch.zeros_like(every.hidden), torch.zeros_like(weight)
            # Scored once more: keeping the scores of all positions is what can't be afforded.
            for part, logits in _score(every.hidden, items, owners):
                shares = logits.sub_(logs[part, None]).exp_().mul_(every.weights[part, None])
                by_state[part] = (shares.to(dtype) @ items).float()
                by_item.add_(shares.T.to(dtype) @ every.hidden[part].to(dtype))
            _subtract_own_targets((by_state, by_item), every, weight, owners)
            own = _return_states(by_state, every.counts, owners)
        ctx.gradients = own.to(hidden.dtype), by_item
        return losses.split(every.counts)[owners.communicator.rank].sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # Scaled where they are, as in ``losses``: one is as large as the rank's part of the table.
        by_state, by_item = (saved.mul_(gradients[0]) for saved in ctx.gradients)
        ctx.gradients = None
        return by_state, by_item, None, None, None


def _score(hidden: Tensor, items: Tensor, owners: Owners) -> Iterator[tuple[slice, Tensor]]:
    """Scores of this rank's items, float32 [chunk, own], padding at -inf; some positions a time."""
    size = chunk_positions(len(items), hidden.device)
    # At least one: sums of nothing have a shape, too.
    for start in range(0, max(1, len(hidden)), size):
        part = slice(start, start + size)
        logits = (hidden[part].to(items.dtype) @ items.T).float()
        if owners.communicator.rank == 0:
            logits[:, 0] = -torch.inf
        yield part, logits


def _score_targets(every: Gathered, weight: Tensor, owners: Owners) -> Tensor:
    """Scores float32 [all] of targets that this rank has, 0 of others."""
    own = owners.is_own(every.targets)
    vectors = weight.index_select(0, owners.places(every.targets[own]))
    scores = every.hidden.new_zeros(len(every.targets))
    scores[own] = (every.hidden[own] * vectors).sum(dim=1)
    return scores


def combine(owners: Owners, partial: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Over all ranks: the log of the sum of exponentials, and the sum of what only owners have.

    Args:
        partial: log of the sum over this rank's items, float [all].
        wanted: float [all].
    """
    own = torch.stack([partial, wanted], dim=1)
    found = owners.communicator.start_allgather(own, "softmax.sums")()
    found = found.view(owners.communicator.size, *own.shape)
    return found[..., 0].logsumexp(dim=0), found[..., 1].sum(dim=0)


def _subtract_own_targets(
    gradients: tuple[Tensor, Tensor], every: Gathered, weight: Tensor, owners: Owners
) -> None:
    own = owners.is_own(every.targets).nonzero()[:, 0]
    by_state, by_item = gradients
    chosen = by_state[own]
    places, worth = owners.places(every.targets[own]), every.weights[own]
    subtract_targets((chosen, by_item), every.hidden[own], weight, places, worth)
    by_state[own] = chosen


def _return_states(by_state: Tensor, counts: list[int], owners: Owners) -> Tensor:
    """Every rank's part of the gradients of this rank's states, summed in order of ranks."""
    communicator = owners.communicator
    got = communicator.start_alltoall(by_state, counts, "softmax.gradients")()
    return got.view(communicator.size, counts[communicator.rank], by_state.shape[1]).sum(dim=0)


@torch.no_grad()
def rank_targets(
    owners: Owners, weight: Tensor, hidden: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Ranks of targets among all items, and -log softmax; called by all ranks together.

    A tie counts against the target.

    Args:
        owners, weight: of the items, and this rank's vectors, float32 [own, dims].
        hidden, targets: of this rank's positions, [positions, dims] and int64 [positions].

    Returns:
        int64 and float32 [positions].
    """
    every = gather(owners, hidden, targets, None)
    own, places = owners.is_own(every.targets), owners.places(every.targets)
    scores = owners.communicator.allreduce_sum(_score_targets(every, weight, owners))
    partial, counts = [], []
    for part, logits in _score(every.hidden, weight, owners):
        partial.append(logits.logsumexp(dim=1))
        mine = own[part].nonzero()[:, 0]
        logits[mine, places[part][mine]] = -torch.inf  # the target itself is no other item
        counts.append((~(logits < scores[part, None])).sum(dim=1))
    logs, ahead = combine(owners, torch.cat(partial).double(), torch.cat(counts).double())
    this = owners.communicator.rank
    losses = (logs - scores).float().split(every.counts)[this]
    return 1 + ahead.long().split(every.counts)[this], losses
