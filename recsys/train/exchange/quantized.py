"""Gradients in 16 or 8 bits on their way between ranks.

Horovod's allreduce adds up in the type that it sends, which int8 overflows and Gloo lacks for
bfloat16. So the sum is made in its two halves: each rank gets its share of every rank's gradient
(alltoall), adds up in float32, and hands the sum round (allgather); both halves travel coded.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from recsys.train.communication import Group, Wait
from recsys.train.exchange.contract import Compressor, Rounds

_BLOCK = 256
_LARGEST = 127


class Fp16Sum(Compressor):
    """As float16, and added up in it (as Horovod's optimizer does); nothing is held back."""

    def sum(self, name: str, gradient: Tensor) -> Rounds:
        total = yield self.communicator.start_allreduce(gradient.half(), name)
        return total.to(gradient.dtype)


class Bf16Sum(Compressor):
    """Rounded to bfloat16, twice; nothing is held back.

    An entry of the sum is off by 2 ** -7 of the sum of the ranks' magnitudes at most.
    """

    def sum(self, name: str, gradient: Tensor) -> Rounds:
        shares = _deal(gradient, self.communicator.size).bfloat16()
        # As int16: Horovod carries bits of any kind, but does not know this one.
        got = yield _trade(self.communicator, shares.view(torch.int16), name)
        own = got.view(torch.bfloat16).view_as(shares).float().sum(dim=0)
        coded = own.bfloat16().view(torch.int16)
        everyone = yield self.communicator.start_allgather(coded, f"{name}.sums")
        return _collect(everyone.view(torch.bfloat16).float(), gradient)


class Int8Sum(Compressor):
    """Rounded to 8 bits in blocks of 256 with a scale each; what rounding loses is held back.

    Both halves have an error feedback: a rank's own, and that of the sum of its share (Tang et al.
    2019, "DoubleSqueeze", algorithm 1). Blocks with scales: Dettmers 2016, section 3.
    """

    def __init__(self, communicator: Group) -> None:
        super().__init__(communicator)
        self._of_sums: dict[str, Tensor] = {}

    def sum(self, name: str, gradient: Tensor) -> Rounds:
        ranks, wanted = self.communicator.size, self.add_held_back(name, gradient)
        shares = _deal(wanted, ranks)
        coded = encode(shares)
        self.held_back[name] = _collect(shares - decode(coded), gradient)
        got = yield _trade(self.communicator, coded, name)
        own = decode(got.view_as(coded)).sum(dim=0, keepdim=True)
        if name in self._of_sums:
            own += self._of_sums[name]
        coded = encode(own)
        self._of_sums[name] = own - decode(coded)
        everyone = yield self.communicator.start_allgather(coded.flatten(), f"{name}.sums")
        return _collect(decode(everyone.view(ranks, -1)), gradient)

    def settle(self) -> None:
        """Move what the sum of this rank's share lost to what the rank itself holds back."""
        for name, lost in self._of_sums.items():
            kept = self.held_back[name].view(-1)
            start = min(len(kept), self.communicator.rank * lost.shape[1])
            kept[start : start + lost.shape[1]] += lost[0, : len(kept) - start]
        self._of_sums.clear()


def encode(values: Tensor) -> Tensor:
    """Float32 [rows, blocks * 256] as bytes int8 [rows, blocks * 260]: entries, then scales."""
    rows = len(values)
    blocks = values.view(rows, -1, _BLOCK)
    scales = blocks.abs().amax(dim=2, keepdim=True) / _LARGEST
    entries = (blocks / scales.clamp_min(torch.finfo(torch.float32).tiny)).round_().to(torch.int8)
    return torch.cat([entries.view(rows, -1), scales.view(rows, -1).view(torch.int8)], dim=1)


def decode(coded: Tensor) -> Tensor:
    """Inverse of ``encode``, up to half a scale."""
    rows, width = coded.shape
    blocks = width // (_BLOCK + 4)
    entries = coded[:, : blocks * _BLOCK].view(rows, blocks, _BLOCK)
    scales = coded[:, blocks * _BLOCK :].contiguous().view(torch.float32).view(rows, blocks, 1)
    return (entries * scales).view(rows, -1)


def _deal(gradient: Tensor, ranks: int) -> Tensor:
    """A share for each rank, [ranks, whole blocks], zeros at the end; float32."""
    flat = gradient.float().flatten()
    width = -(-len(flat) // (ranks * _BLOCK)) * _BLOCK
    return functional.pad(flat, (0, ranks * width - len(flat))).view(ranks, width)


def _trade(communicator: Group, shares: Tensor, name: str) -> Wait:
    """Every rank's share for this one, in order of ranks, flat."""
    splits = [shares.shape[1]] * len(shares)
    return communicator.start_alltoall(shares.flatten(), splits, f"{name}.shares")


def _collect(shares: Tensor, gradient: Tensor) -> Tensor:
    return shares.flatten()[: gradient.numel()].view_as(gradient).to(gradient.dtype)
