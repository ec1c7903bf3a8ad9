"""Self-attentive sequential recommendation: a causal transformer over a user's items.

Source: Kang and McAuley 2018, "Self-Attentive Sequential Recommendation", section III, with
changes that later work settled on: layer norm before each sub-layer (Xiong et al. 2020), a GELU
feed-forward four times as wide as the model, training on the full softmax instead of one sampled
negative (see ``losses``), and a bias for each item that starts at its popularity.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

_KIND = "sasrec"
_EMBEDDING_STD = 0.02


class ModelSettings(Protocol):
    """The part of the settings that shapes a model (``settings.model``)."""

    @property
    def dims(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def dropout(self) -> float: ...


@dataclass(frozen=True)
class SASRecConfig:
    """Shape of a model; ``to_dict`` and ``from_dict`` are inverse to each other.

    Attributes:
        num_items: largest item_idx.
        max_length: most items the model looks at; older ones are dropped.
        dims: width of item vectors and blocks, a multiple of ``heads``.
        blocks: transformer blocks.
        heads: attention heads.
        dropout: share of embedding, attention and block outputs dropped in training.
    """

    num_items: int
    max_length: int
    dims: int
    blocks: int
    heads: int
    dropout: float

    def __post_init__(self) -> None:
        if self.num_items < 1 or self.max_length < 1 or self.dims % self.heads:
            raise ValueError(f"impossible model: {self}")

    @classmethod
    def from_settings(
        cls, settings: ModelSettings, num_items: int, max_length: int
    ) -> SASRecConfig:
        """Take the shape from ``settings.model``, the sizes from the data."""
        return cls(
            num_items=num_items,
            max_length=max_length,
            dims=settings.dims,
            blocks=settings.blocks,
            heads=settings.heads,
            dropout=settings.dropout,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return {"kind": _KIND, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SASRecConfig:
        """Inverse of ``to_dict``.

        Raises:
            ValueError: another kind of model, or fields are missing or unknown.
        """
        fields = {name: value for name, value in values.items() if name != "kind"}
        expected = {field.name for field in dataclasses.fields(cls)}
        if values.get("kind") != _KIND or set(fields) != expected:
            raise ValueError(f"not a configuration of {_KIND}: {dict(values)}")
        return cls(**fields)


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, dims: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm = nn.LayerNorm(dims)
        self.queries_keys_values = nn.Linear(dims, 3 * dims)
        self.attention_output = nn.Linear(dims, dims)
        self.feed_forward_norm = nn.LayerNorm(dims)
        self.feed_forward = nn.Sequential(
            nn.Linear(dims, 4 * dims), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * dims, dims)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x float [users, length, dims], mask bool [users, 1, length, length] -> like x."""
        x = x + functional.dropout(
            self._attend(self.attention_norm(x), mask), self.dropout, self.training
        )
        hidden = self.feed_forward(self.feed_forward_norm(x))
        return x + functional.dropout(hidden, self.dropout, self.training)

    def _attend(self, x: Tensor, mask: Tensor) -> Tensor:
        users, length, dims = x.shape
        split = self.queries_keys_values(x).view(users, length, 3, self.heads, dims // self.heads)
        queries, keys, values = split.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
        )
        out: Tensor = self.attention_output(mixed.transpose(1, 2).reshape(users, length, dims))
        return out


class SASRec(nn.Module):
    """Item vectors are shared between input and output; the score of an item is a dot product.

    Column 0 of an item's vector is its bias: states are 1 there, and the input ignores it. So the
    scores have a popularity part and stay dot products, which nearest-neighbour search needs.

    Sequences are int [users, length], oldest item first, zeros in front. Positions are counted
    from the end, so that one user padded to different lengths gives the same result.
    """

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        self.config = config
        self.item_embedding = nn.Embedding(config.num_items + 1, config.dims, padding_idx=0)
        self.position_embedding = nn.Parameter(torch.empty(config.max_length, config.dims))
        self.blocks = nn.ModuleList(
            Block(config.dims, config.heads, config.dropout) for _ in range(config.blocks)
        )
        self.output_norm = nn.LayerNorm(config.dims)
        bias_column = torch.arange(config.dims) == 0
        self.register_buffer("bias_column", bias_column, persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.position_embedding, std=_EMBEDDING_STD)
        nn.init.normal_(self.item_embedding.weight, std=_EMBEDDING_STD)
        with torch.no_grad():
            self.item_embedding.weight[0] = 0.0
            self.item_embedding.weight[:, 0] = 0.0

    @torch.no_grad()
    def set_popularity(self, counts: Tensor) -> None:
        """Let the biases predict how often each item is a target, before anything is learned.

        Training then starts from the popularity list instead of from chance, and spends its
        steps on what differs between users.

        Args:
            counts: (weighted) number of targets of each item, float [num_items + 1].

        Source: Lin et al. 2017, "Focal Loss", section 3.3, on starting from the base rates.
        """
        logs = torch.log(counts[1:].to(self.item_embedding.weight) + 1.0)
        self.item_embedding.weight[1:, 0] = logs - logs.mean()

    def forward(self, items: Tensor) -> Tensor:
        """Hidden state after each item, float [users, length, dims]; 0 at padding.

        A state sees its own item and earlier ones only. Of more than ``config.max_length`` items
        the last ones are taken.

        Args:
            items: int [users, length].
        """
        items = items[:, -self.config.max_length :]
        length = items.shape[1]
        real = items > 0
        x = self.item_embedding(items) * math.sqrt(self.config.dims)
        x = x.masked_fill(self.bias_column, 0.0)
        x = x + self.position_embedding[:length].flip(0)
        x = functional.dropout(x, self.config.dropout, self.training) * real[..., None]
        mask = _attention_mask(real)
        for block in self.blocks:
            x = block(x, mask)
        hidden: Tensor = self.output_norm(x).masked_fill(self.bias_column, 1.0)
        return hidden * real[..., None]

    def encode(self, items: Tensor) -> Tensor:
        """Vector of each user, float [users, dims]: the state after the last item.

        A user without any item gets the zero vector, which scores all items alike.
        """
        return self.forward(items)[:, -1]

    def item_vectors(self) -> Tensor:
        """Vector of each item, float [num_items + 1, dims]; row 0 is padding and zero."""
        return self.item_embedding.weight


def _attention_mask(real: Tensor) -> Tensor:
    """Which position may look at which, bool [users, 1, length, length].

    Causal, and no one looks at padding, except that every position sees itself: a row of padding
    would otherwise have nothing to look at, and its softmax would be NaN.
    """
    length = real.shape[1]
    causal = torch.ones((length, length), dtype=torch.bool, device=real.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=real.device)
    return (causal & real[:, None, None, :]) | itself
