"""What score a user's vector gives an item's vector, to the last bit.

A float32 product depends on the order in which a library adds up, and that on the shape of the
batch, the processor and the number of threads: two items that are nearly alike would change places.
So the score is defined without an order: **the dot product of the two float32 vectors itself,
rounded to float64 and then to float32.**

Products of two float32 are exact in float64. Their sum in any order differs from the dot product by
at most (dims - 1) 2^-53 (1 + 2^-40) times the sum of their sizes (Higham 2002, "Accuracy and
Stability of Numerical Algorithms", section 4.2), and this by Cauchy and Schwarz by less than the
``doubt`` below. Where all that lies within the doubt rounds to one float32, that is the score.
Elsewhere, about once in ten million times, the products are added without error.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_PAIRS_AT_ONCE = 4096  # stays in the second-level cache


def score_pairs(users: Tensor, vectors: Tensor, user: Tensor, row: Tensor) -> Tensor:
    """Scores of pairs, float32 [pairs]; -0.0 is 0.0.

    Args:
        users: vectors, float32 [users, dims], finite.
        vectors: of items, float32 [rows, dims], finite.
        user, row: int64 [pairs], rows of ``users`` and ``vectors``.
    """
    wide = users.double()
    scores = torch.empty(len(user), dtype=torch.float32, device=users.device)
    for at in range(0, len(user), _PAIRS_AT_ONCE):
        part = slice(at, at + _PAIRS_AT_ONCE)
        products = vectors.index_select(0, row[part]).double()
        products *= wide.index_select(0, user[part])
        scores[part] = _add_up(products)
    return scores + 0.0


def _add_up(products: Tensor) -> Tensor:
    """Sums of float64 [pairs, dims], as float32 [pairs]."""
    total = products.sum(dim=1)
    size = torch.linalg.vector_norm(products, dim=1)
    # The sum of sizes is at most sqrt(dims) times their norm.
    doubt = size * (math.sqrt(products.shape[1]) * products.shape[1] * 2.0**-52)
    scores = (total - doubt).float()
    for at in torch.nonzero(scores != (total + doubt).float())[:, 0].tolist():
        scores[at] = math.fsum(products[at].tolist())
    return scores
