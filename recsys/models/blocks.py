"""Parts of a sequence transformer: attention, feed-forward, gated residuals, positions, time.

Everything works on sequences that are padded in front; the mask says what is causal.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.models.dropout import Dropout, dropout

_ROTARY_BASE = 10_000.0
_TIME_BUCKETS = 32


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + feed_forward(norm(x)).

    Args:
        dims: width of the states.
        heads: attention heads; divides ``dims``.
        dropout: of attention weights and of what both sub-layers add.
        feed_forward: ``gelu`` or ``swiglu`` (Shazeer 2020, "GLU Variants", equation 6), both
            four times as wide inside as ``dims``.
        gated: what a sub-layer adds is multiplied by sigmoid(linear(x)), as in LiGR (Borisyuk et
            al. 2025, "From Features to Transformers", arXiv 2502.03417).
    """

    def __init__(
        self, dims: int, heads: int, dropout: float, feed_forward: str, gated: bool
    ) -> None:
        super().__init__()
        self.heads, self.dropout, self.kind = heads, dropout, feed_forward
        self.attention_norm = nn.LayerNorm(dims)
        self.queries_keys_values = nn.Linear(dims, 3 * dims)
        self.attention_output = nn.Linear(dims, dims)
        self.feed_forward_norm = nn.LayerNorm(dims)
        inner = SwiGLU(dims) if feed_forward == "swiglu" else nn.Linear(dims, 4 * dims)
        middle = nn.Identity() if feed_forward == "swiglu" else nn.GELU()
        self.feed_forward = nn.Sequential(
            inner, middle, Dropout(dropout), nn.Linear(4 * dims, dims)
        )
        self.attention_gate = nn.Linear(dims, dims) if gated else None
        self.feed_forward_gate = nn.Linear(dims, dims) if gated else None

    def forward(
        self, x: Tensor, mask: Tensor, rotation: Tensor | None, last: bool = False
    ) -> Tensor:
        """One block.

        Args:
            x: float [users, length, dims].
            mask: [users, 1 or heads, length, length], bool (True may be looked at) or float
                (added to the attention's logits).
            rotation: of ``rotate``; None turns nothing.
            last: give the last position alone, float [users, 1, dims]: the others are only
                looked at.
        """
        given = x[:, -1:] if last else x
        added = self._attend(self.attention_norm(x), mask, rotation, given.shape[1])
        x = given + self._drop(_gate(added, self.attention_gate, given))
        added = self.feed_forward(self.feed_forward_norm(x))
        return x + self._drop(_gate(added, self.feed_forward_gate, x))

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)

    def _attend(self, x: Tensor, mask: Tensor, rotation: Tensor | None, asked: int) -> Tensor:
        """What the last ``asked`` positions look for in all."""
        if asked == 1 and rotation is None:
            mixed = self._attend_from_last(x, mask[:, :, -1])
        else:
            queries, keys, values = self._project(x, asked)
            if rotation is not None:
                queries, keys = rotate(queries, rotation[-asked:]), rotate(keys, rotation)
            mixed = self._mix(queries, keys, values, mask[:, :, -asked:]).transpose(1, 2)
        out: Tensor = self.attention_output(mixed.flatten(2))
        return out

    def _project(self, x: Tensor, asked: int) -> Sequence[Tensor]:
        """Queries of the last ``asked`` positions, keys and values of all, by heads."""
        dims = x.shape[2]
        if asked == x.shape[1]:
            return self._split(self.queries_keys_values(x), 3).unbind()
        weight, bias = self.queries_keys_values.weight, self.queries_keys_values.bias
        queries = functional.linear(x[:, -asked:], weight[:dims], bias[:dims])
        others = functional.linear(x, weight[dims:], bias[dims:])
        return *self._split(queries, 1), *self._split(others, 2)

    def _attend_from_last(self, x: Tensor, mask: Tensor) -> Tensor:
        """What the last position finds, float [users, 1, heads, head_dims]; mask [..., length].

        For one query it costs less to multiply it by the weights of keys than to make the keys of
        all positions, and what is mixed by the weights of values: q (W x) = (q W) x. (The keys'
        bias adds the same to all logits.) Source: DeepSeek-AI 2024, "DeepSeek-V2", section 2.1.2,
        which absorbs these weights the same way.
        """
        dims = x.shape[2]
        weights = self.queries_keys_values.weight.view(3, self.heads, -1, dims)
        biases = self.queries_keys_values.bias.view(3, self.heads, -1)
        queries = torch.einsum("ud,hkd->uhk", x[:, -1], weights[0]) + biases[0]
        queries = torch.einsum("uhk,hkd->uhd", queries, weights[1])
        # Heads take the place of positions: all look at the same states.
        states = x[:, None]
        mixed = self._mix(queries[:, None], states, states, mask[:, None], weights.shape[2])
        return torch.einsum("uphd,hkd->uphk", mixed, weights[2]) + biases[2]

    def _mix(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, dims: int | None = None
    ) -> Tensor:
        """Scaled dot-product attention; ``dims`` of a head, where queries don't show them."""
        return functional.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask if mask.dtype == torch.bool else mask.to(queries.dtype),
            dropout_p=self.dropout if self.training else 0.0,
            scale=None if dims is None else dims**-0.5,
        )

    def _split(self, x: Tensor, parts: int) -> Tensor:
        """By heads: [users, length, parts * dims] -> [parts, users, heads, length, head_dims]."""
        users, length, width = x.shape
        heads = x.view(users, length, parts, self.heads, width // parts // self.heads)
        return heads.permute(2, 0, 3, 1, 4)


def _gate(added: Tensor, gate: nn.Linear | None, x: Tensor) -> Tensor:
    return added if gate is None else added * torch.sigmoid(gate(x))


class SwiGLU(nn.Module):
    """linear(x) * silu(linear(x)), four times as wide as x."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.both = nn.Linear(dims, 8 * dims)

    def forward(self, x: Tensor) -> Tensor:
        """Float [..., dims] -> float [..., 4 * dims]."""
        value, gate = self.both(x).chunk(2, dim=-1)
        out: Tensor = value * functional.silu(gate)
        return out


def rotation_angles(length: int, head_dims: int, device: torch.device) -> Tensor:
    """Angle of each pair of dims at each position, float32 [length, head_dims / 2].

    Positions are counted from the end. Only differences matter, so the same sequence padded to
    another length gives the same result. Source: Su et al. 2021, "RoFormer", section 3.2.
    """
    speeds = _ROTARY_BASE ** (-torch.arange(0, head_dims, 2, device=device) / head_dims)
    return torch.arange(length - 1, -1, -1, device=device)[:, None] * speeds


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn pairs of dims (first half with second half) of x [..., length, head_dims]."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class RelativeBias(nn.Module):
    """What is added to the attention of one position to another: by distance, and by time.

    Time between two events counts by its logarithm: the bucket of a gap of h hours is
    2 * log2(1 + h), rounded down, 32 buckets (the last one from about five years on). What comes
    later counts as what came as long before.

    Source: Zhai et al. 2024, "Actions Speak Louder than Words" (HSTU), section 3.1, "rab".
    """

    def __init__(self, heads: int, max_length: int, positions: bool, time_gaps: bool) -> None:
        super().__init__()
        self.by_distance = nn.Parameter(torch.zeros(heads, max_length)) if positions else None
        self.by_gap = nn.Parameter(torch.zeros(heads, _TIME_BUCKETS)) if time_gaps else None

    def forward(self, length: int, hours: Tensor | None) -> Tensor:
        """Float [1 or users, heads, length, length].

        Args:
            length: of the sequences.
            hours: time of each event, hours since 1970, int [users, length].

        Raises:
            ValueError: times are needed and not given.
        """
        parts = []
        if self.by_distance is not None:
            places = torch.arange(length, device=self.by_distance.device)
            parts.append(self.by_distance[:, (places[:, None] - places).abs()][None])
        if self.by_gap is not None:
            if hours is None:
                raise ValueError("a model with model.time_gaps needs the time of each event")
            gap = (hours[:, :, None] - hours[:, None, :]).abs().float()
            bucket = (2.0 * torch.log2(1.0 + gap)).long().clamp(max=_TIME_BUCKETS - 1)
            parts.append(self.by_gap[:, bucket].transpose(0, 1))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def attention_mask(real: Tensor, causal: bool = True) -> Tensor:
    """Which position may look at which, bool [users, 1, length, length].

    No one looks at padding, nor (``causal``) at what comes later, except that every position sees
    itself: a row of padding would otherwise have nothing to look at, and its softmax would be NaN.
    """
    length = real.shape[1]
    itself = torch.eye(length, dtype=torch.bool, device=real.device)
    seen = real[:, None, None, :]
    if causal:
        seen = seen & torch.ones_like(itself).tril()
    return seen | itself


def initialise(module: nn.Module) -> None:
    """Xavier-normal weights and zero biases of every linear layer inside."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
