"""The vectors of items: one each, and what items share through attributes and neighbours."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

STD = 0.02

# Said once a process, from within torch: that sparse tensors are a beta and not checked by default.
warnings.filterwarnings("ignore", message="Sparse (CSR tensor support|invariant checks)")


@dataclass(frozen=True)
class Links:
    """A sparse matrix by rows: what each item is linked to, and how strongly.

    Attributes:
        offsets: row i is links offsets[i] to offsets[i + 1], int64 [num_items + 2].
        columns: int64 [links]; ascending within a row.
        weights: float32 [links].
    """

    offsets: Tensor
    columns: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.columns)


class ItemTable(nn.Module):
    """Vectors of all items, float [num_items + 1, dims]; row 0 is padding and zero.

    The vector of an item is its own embedding, plus the weighted sum of its attributes', plus
    ``neighbor_weight`` times the weighted sum of the same of its neighbours: one step of the
    propagation of He et al. 2020, "LightGCN", section 3.1, on a graph of items that users had
    together. Items with few events so learn from those around them.

    Column 0 is the item's bias (see ``SequenceTransformer``): it is the item's own.

    Attributes:
        sharded: ``weight`` holds the rows of this rank alone.
    """

    sharded = False

    def __init__(
        self,
        num_items: int,
        dims: int,
        num_attributes: int = 0,
        attribute_links: int = 0,
        neighbor_links: int = 0,
        neighbor_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.neighbor_weight = neighbor_weight
        self.sparse = False  # as of nn.Embedding: gradients of look-ups hold the looked-up rows
        self.weight = nn.Parameter(torch.empty(num_items + 1, dims))
        self.attribute_embedding = (
            nn.Parameter(torch.empty(num_attributes, dims)) if attribute_links else None
        )
        self._allocate("attribute", num_items, attribute_links)
        self._allocate("neighbor", num_items, neighbor_links)
        self._transposed: Tensor | None = None
        self.reset()

    def _allocate(self, name: str, num_items: int, links: int) -> None:
        """Buffers of the right shapes, so that weights of a saved model fit in."""
        rows = num_items + 2 if links else 0
        for part, made in (
            ("offsets", torch.zeros(rows, dtype=torch.int64)),
            ("columns", torch.zeros(links, dtype=torch.int64)),
            ("weights", torch.zeros(links)),
        ):
            self.register_buffer(f"{name}_{part}", made, persistent=links > 0)

    @torch.no_grad()
    def reset(self) -> None:
        """Draw new embeddings; padding and biases are zero."""
        for table in (self.weight, self.attribute_embedding):
            if table is not None:
                nn.init.normal_(table, std=STD)
                table[:, 0] = 0.0
        self.weight[0] = 0.0

    @torch.no_grad()
    def set_biases(self, biases: Tensor) -> None:
        """Set the bias of each item, float [num_items], from item 1 on."""
        self.weight[1:, 0] = biases

    def __getstate__(self) -> dict[str, Any]:
        # Sparse tensors can neither be copied nor pickled; this one is made again when needed.
        return {**self.__dict__, "_transposed": None}

    def set_links(self, name: str, links: Links) -> None:
        """Set the links to ``attribute`` or ``neighbor``, whose number the constructor knew."""
        self.get_buffer(f"{name}_offsets").copy_(links.offsets)
        self.get_buffer(f"{name}_columns").copy_(links.columns)
        self.get_buffer(f"{name}_weights").copy_(links.weights)
        self._transposed = None

    def forward(self, items: Tensor | None = None) -> Tensor:
        """Vectors of all items, or of ``items`` (item_idx, int64 [count])."""
        # In full precision: torch has no sparse products in others, and they are small.
        with torch.autocast(self.weight.device.type, enabled=False):
            return self._compose(items)

    def _compose(self, items: Tensor | None) -> Tensor:
        if not len(self.get_buffer("neighbor_columns")):
            return self._own(items)
        if items is None:
            vectors = self._own(None)
            turned = self._matrix_transposed() if torch.is_grad_enabled() else None
            around = _Propagate.apply(vectors, self._matrix(), turned)
        else:
            near, offsets, weights = self.links_of("neighbor", items)
            # Looked up at once: each look-up in the table has a gradient as large as the table.
            needed, places = torch.cat([items, near]).unique(return_inverse=True)
            own = self._own(needed)
            vectors = functional.embedding(places[: len(items)], own)
            around = _sum_rows(own, places[len(items) :], offsets, weights)
        share = around.new_full((around.shape[1],), self.neighbor_weight)
        share[0] = 0.0
        return torch.addcmul(vectors, around, share)

    def _own(self, items: Tensor | None) -> Tensor:
        """Without neighbours."""
        vectors = self._own_embedding(items)
        if self.attribute_embedding is None:
            return vectors
        columns, offsets, weights = self.links_of("attribute", items)
        return vectors + _sum_rows(self.attribute_embedding, columns, offsets, weights)

    def _own_embedding(self, items: Tensor | None) -> Tensor:
        if items is None:
            return self.weight
        return functional.embedding(items, self.weight, sparse=self.sparse)

    def links_of(self, name: str, items: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Columns, offsets and weights of the links of ``items``, or of all items."""
        offsets = self.get_buffer(f"{name}_offsets")
        columns, weights = self.get_buffer(f"{name}_columns"), self.get_buffer(f"{name}_weights")
        if items is None:
            return columns, offsets, weights
        counts = offsets[items + 1] - offsets[items]
        own = functional.pad(counts.cumsum(0), (1, 0))
        moved = torch.repeat_interleave(offsets[items] - own[:-1], counts)
        at = moved + torch.arange(len(moved), device=items.device)
        return columns[at], own, weights[at]

    def _matrix(self) -> Tensor:
        offsets = self.get_buffer("neighbor_offsets")
        columns, weights = self.get_buffer("neighbor_columns"), self.get_buffer("neighbor_weights")
        size = (len(self.weight), len(self.weight))
        return torch.sparse_csr_tensor(offsets, columns, weights, size, check_invariants=False)

    def _matrix_transposed(self) -> Tensor:
        """Kept, as its making costs more than the product; links do not change in training."""
        if self._transposed is None or self._transposed.device != self.weight.device:
            self._transposed = self._matrix().to_sparse_coo().t().coalesce().to_sparse_csr()
        return self._transposed


def _sum_rows(table: Tensor, columns: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows, float [len(offsets) - 1, dims]; in a fixed order, on a GPU too."""
    return functional.embedding_bag(
        columns, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


class _Propagate(torch.autograd.Function):
    """matrix @ vectors, whose gradient torch would make by transposing the matrix every time."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, matrix: Tensor, transposed: Tensor | None) -> Tensor:
        ctx.transposed = transposed
        return matrix @ vectors

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.transposed @ gradients[0].contiguous(), None, None
