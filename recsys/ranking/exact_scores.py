"""What score a user's vector gives an item's vector, to the last bit.

A float32 product depends on the order in which a library adds up, and that on the shape of the
batch, the processor and the number of threads: two items that are nearly alike would change places.
So the score is defined without an order: **the dot product of the two float32 vectors itself,
rounded to float64 and then to float32.**

Products of two float32 are exact in float64. Their sum in any order differs from the dot product by
at most dims 2^-53 times the sum of their sizes (Higham 2002, "Accuracy and Stability of Numerical
Algorithms", section 4.2), which by Cauchy and Schwarz is at most the product of the norms: half the
``doubt`` below. Where all that lies within the doubt rounds to one float32, that is the score.
Elsewhere, about once in ten million times, the products are added without error.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_PAIRS_AT_ONCE = 1024  # stays in the second-level cache


def score_pairs(
    users: Tensor, vectors: Tensor, user: Tensor, row: Tensor, longest: Tensor
) -> Tensor:
    """Scores of pairs, float32 [pairs]; -0.0 is 0.0.

    Args:
        users: vectors, float32 [users, dims], finite.
        vectors: of items, float32 [rows, dims], finite.
        user, row: int64 [pairs], rows of ``users`` and ``vectors``.
        longest: at least the norms of ``vectors``, float64 [1].
    """
    wide = users.double()
    doubt = doubt_sums(wide, longest)
    scores = torch.empty(len(user), dtype=torch.float32, device=users.device)
    for at in range(0, len(user), _PAIRS_AT_ONCE):
        part = slice(at, at + _PAIRS_AT_ONCE)
        ours, theirs = wide.index_select(0, user[part]), vectors.index_select(0, row[part])
        scores[part] = _multiply(ours, theirs.double(), doubt[user[part]])
    return scores + 0.0


def doubt_sums(users: Tensor, longest: Tensor) -> Tensor:
    """The doubt of sums in float64 for each of float64 [users, dims], float64 [users]."""
    # Twice the bound, so that the rounding of the norms does not matter.
    return 2.0**-52 * users.shape[1] * torch.linalg.vector_norm(users, dim=1) * longest


def _multiply(ours: Tensor, theirs: Tensor, doubt: Tensor) -> Tensor:
    """Scores of float64 [pairs, dims], float32 [pairs]."""
    # numpy's loop over short rows takes half the time of torch's.
    total = (
        torch.from_numpy(np.einsum("ij,ij->i", ours.numpy(), theirs.numpy()))
        if ours.device.type == "cpu"
        else (ours * theirs).sum(dim=1)
    )
    scores = (total - doubt).float()
    for at in torch.nonzero(scores != (total + doubt).float())[:, 0].tolist():
        scores[at] = math.fsum((ours[at] * theirs[at]).tolist())
    return scores
