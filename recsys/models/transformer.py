"""The sequence transformer: causal, next item, over a user's events.

It began as SASRec (Kang and McAuley 2018, "Self-Attentive Sequential Recommendation", section
III) with what later work settled on: layer norm before each sub-layer (Xiong et al. 2020),
training on a softmax over the catalogue instead of one sampled negative (see ``losses``), and a
bias for each item that starts at its popularity. Settings add gated residuals, SwiGLU, rotary or
relative positions, the time between events and their types (see ``blocks``), and item vectors that
take from each other (see ``items``).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.models.blocks import (
    Block,
    RelativeBias,
    attention_mask,
    initialise,
    rotation_angles,
)
from recsys.models.contract import DotProductRecommender, Inputs
from recsys.models.dropout import dropout
from recsys.models.head import LinearHead
from recsys.models.items import ItemTable
from recsys.models.transformer_config import TransformerConfig

_EMBEDDING_STD = 0.02
_EVENT_TYPES = 16


class SequenceTransformer(DotProductRecommender):
    """Item vectors are shared between input and output; the score of an item is a dot product.

    Column 0 of an item's vector is its bias: states are 1 there, and the input ignores it. So the
    scores have a popularity part and stay dot products, which nearest-neighbour search needs.

    Sequences are int [users, length], oldest item first, zeros in front. Positions are counted
    from the end, so that one user padded to different lengths gives the same result.
    """

    bias_column: Tensor
    biases = 1
    row_tables = ("item_embedding",)
    config: TransformerConfig

    def __init__(
        self, config: TransformerConfig, make_table: Callable[..., ItemTable] = ItemTable
    ) -> None:
        super().__init__()
        self.config = config
        dims = config.dims
        self.item_embedding = make_table(
            config.num_items,
            dims,
            config.num_attributes,
            config.attribute_links,
            config.neighbor_links,
            config.neighbor_weight,
        )
        learned = config.positions == "learned"
        self.position_embedding = (
            nn.Parameter(torch.empty(config.max_length, dims)) if learned else None
        )
        relative = config.positions == "relative"
        self.relative_bias = (
            RelativeBias(config.heads, config.max_length, relative, config.time_gaps)
            if relative or config.time_gaps
            else None
        )
        self.type_embedding = nn.Embedding(_EVENT_TYPES, dims) if config.event_types else None
        self.blocks = nn.ModuleList(
            Block(dims, config.heads, config.dropout, config.feed_forward, config.gated_residuals)
            for _ in range(config.blocks)
        )
        self.output_norm = nn.LayerNorm(dims)
        self.head = LinearHead(dims) if config.head == "linear" else None
        self.mask_vector = nn.Parameter(torch.empty(dims)) if config.mask else None
        predicted = config.predicted_attributes
        self.attribute_output = nn.Linear(dims, predicted) if predicted else None
        bias_column = torch.arange(dims) == 0
        self.register_buffer("bias_column", bias_column, persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        initialise(self)
        if self.position_embedding is not None:
            nn.init.normal_(self.position_embedding, std=_EMBEDDING_STD)
        if self.type_embedding is not None:
            nn.init.normal_(self.type_embedding.weight, std=_EMBEDDING_STD)
        if self.mask_vector is not None:
            nn.init.normal_(self.mask_vector, std=_EMBEDDING_STD)
        if self.head is not None:
            self.head.reset()
        self.item_embedding.reset()

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
        self.item_embedding.set_biases(logs - logs.mean())

    @torch.no_grad()
    def place_new_items(self, counts: Tensor, new: Tensor) -> None:
        """Make new items average ones of their popularity, beside items that are learned.

        Their own vectors are the mean of the learned ones. A softmax does not change when one
        vector is added to those of all items, so their common part means nothing, and 0 is no
        better a place than any other. The bias is log(count + 1), as in ``set_popularity``, plus
        what the learned ones have on average above theirs.
        """
        table = self.item_embedding.weight
        new = new.to(table.device)
        known = ~new
        known[0] = new[0] = False
        if not known.any() or not new.any():
            return
        logs = torch.log(counts.to(table) + 1.0)
        above = (table[known, 0] - logs[known]).mean()
        table[new] = table[known].mean(dim=0)
        table[new, 0] = logs[new] + above

    def forward(
        self,
        items: Tensor,
        vectors: Tensor | None = None,
        hours: Tensor | None = None,
        event_types: Tensor | None = None,
        causal: bool = True,
    ) -> Tensor:
        """Hidden state after each item, float [users, length, dims]; 0 at padding.

        A state sees its own item and earlier ones only. Of more than ``config.max_length`` items
        the last ones are taken.

        Args:
            items: rows of ``vectors``, int [users, length]; 0 is padding.
            vectors: of items, float [rows, dims], row 0 is padding; None takes
                ``item_vectors()``, and ``items`` are item_idx then.
            hours: time of each event, hours since 1970, int [users, length]; only a model with
                ``time_gaps`` looks at it.
            event_types: codes below 16, int [users, length]; only for ``event_types``.
            causal: False lets every state see all items, for pre-training on masked items.

        Raises:
            ValueError: the model needs times or types that are not given.
        """
        x = self.embed(items, self.item_vectors() if vectors is None else vectors, event_types)
        x = self.run_blocks(x, items, self.blocks, hours, causal)
        return self.read_out(x, items)

    def embed(self, items: Tensor, vectors: Tensor, event_types: Tensor | None = None) -> Tensor:
        """What goes into the first block, float [users, length, dims]; arguments of ``forward``.

        Raises:
            ValueError: the model needs types that are not given.
        """
        items = items[:, -self.config.max_length :]
        x = self._embed(items, vectors)
        if self.type_embedding is not None:
            if event_types is None:
                raise ValueError("a model with model.event_types needs the type of each event")
            x = x + self.type_embedding(event_types[:, -items.shape[1] :].long())
        return dropout(x, self.config.dropout, self.training) * (items > 0)[..., None]

    def run_blocks(
        self,
        x: Tensor,
        items: Tensor,
        blocks: nn.ModuleList | Sequence[nn.Module],
        hours: Tensor | None = None,
        causal: bool = True,
        last: bool = False,
    ) -> Tensor:
        """Some of the model's blocks one after the other, float [users, length, dims].

        Args:
            x: of ``embed``, or of the blocks before, float [users, length, dims].
            items: which are padding (0) counts alone, int [users, length].
            blocks: of ``self.blocks``.
            hours, causal: of ``forward``.
            last: give the last position alone, float [users, 1, dims].

        Raises:
            ValueError: the model needs times that are not given.
        """
        real = items[:, -self.config.max_length :] > 0
        length, mask = real.shape[1], attention_mask(real, causal)
        if self.relative_bias is not None:
            hours = None if hours is None else hours[:, -length:]
            mask = self.relative_bias(length, hours).masked_fill(~mask, -torch.inf)
        rotation = None
        if self.config.positions == "rotary":
            rotation = rotation_angles(length, self.config.dims // self.config.heads, items.device)
        for number, block in enumerate(blocks, start=1):
            x = block(x, mask, rotation, last and number == len(blocks))
        return x

    def read_out(self, x: Tensor, items: Tensor) -> Tensor:
        """States of what the last block gives, float [users, length, dims]; 0 at padding."""
        hidden: Tensor = self.output_norm(x).masked_fill(self.bias_column, 1.0)
        if self.head is not None:
            hidden = self.head(hidden)
        return hidden * (items[:, -self.config.max_length :] > 0)[..., None]

    def _embed(self, items: Tensor, vectors: Tensor) -> Tensor:
        # Through embedding: its gradient adds repeated rows up in a fixed order. Inputs are larger
        # than outputs by the root of the dims (Vaswani et al. 2017, section 3.4).
        x = functional.embedding(items, vectors)
        size = x.new_full((self.config.dims,), math.sqrt(self.config.dims))
        x = x * size.masked_fill(self.bias_column, 0.0)
        if self.position_embedding is not None:
            x = x + self.position_embedding[: items.shape[1]].flip(0)
        return x

    def encode(
        self,
        items: Tensor,
        vectors: Tensor | None = None,
        hours: Tensor | None = None,
        event_types: Tensor | None = None,
    ) -> Tensor:
        """Vector of each user, float [users, dims]: the state after the last item.

        A user without any item gets the zero vector, which scores all items alike.
        """
        x = self.embed(items, self.item_vectors() if vectors is None else vectors, event_types)
        x = self.run_blocks(x, items, self.blocks, hours, last=True)
        return self.read_out(x, items[:, -1:])[:, 0]

    def item_vectors(self, items: Tensor | None = None) -> Tensor:
        """Vector of each item, float [num_items + 1, dims]; row 0 is padding and zero.

        Args:
            items: item_idx, int64 [count]: only of these, float [count, dims].
        """
        vectors: Tensor = self.item_embedding(items)
        return vectors

    def knows(self, given: Inputs) -> Tensor:
        """Users with an item, bool [users]."""
        return (given["items"] > 0).any(dim=1)

    def user_vectors(self, given: Inputs, item_vectors: Tensor) -> Tensor:
        """What ``encode`` makes of the users, float [users, dims]."""
        known = {name: given[name] for name in self.config.looks_at}
        return self.encode(**known, vectors=item_vectors)

    @torch.no_grad()
    def for_scoring(self) -> SequenceTransformer:
        """The same model with what items share worked into one vector each.

        It gives the same scores, costs a look-up an item, and can't be trained on as before.
        """
        without: dict[str, Any] = {
            "num_attributes": 0,
            "attribute_links": 0,
            "neighbor_links": 0,
            "neighbor_weight": 0.0,
            "mask": False,
            "predicted_attributes": 0,
        }
        plain = dataclasses.replace(self.config, **without)
        if plain == self.config:
            return self
        merged = SequenceTransformer(plain).to(self.item_embedding.weight.device)
        weights = {k: v for k, v in self.state_dict().items() if not k.startswith("item_embedding")}
        merged.load_state_dict(weights, strict=False)
        merged.item_embedding.weight.copy_(self.item_vectors())
        return merged.train(self.training)
