"""Item-item recommendation: what is near to what a user had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recsys.ranking.top_n import IntArray


class Neighbors(NamedTuple):
    """Weighted links between items, by item: of item i those from offsets[i] to offsets[i + 1].

    Attributes:
        offsets: int64 [num_items + 2].
        items: item_idx of the neighbour, int64 [links].
        weights: float32 [links].
    """

    offsets: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]

    @property
    def num_items(self) -> int:
        """The largest item_idx."""
        return len(self.offsets) - 2


def group_links(
    items: npt.NDArray[Any], linked: npt.NDArray[Any], weights: npt.NDArray[Any], num_items: int
) -> Neighbors:
    """``Neighbors`` from links in any order, three arrays [links]."""
    order = np.lexsort((linked, items))
    counts = np.bincount(items, minlength=num_items + 1)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Neighbors(offsets, linked[order].astype(np.int64), weights[order].astype(np.float32))


def score_by_neighbors(histories: Sequence[IntArray], neighbors: Neighbors) -> Tensor:
    """Score of each item for each history: the sum of its links from the history's items.

    Each item of a history counts once. Items that are linked to none score 0.

    Args:
        histories: item_idx of each user; items newer than the links are skipped.
        neighbors: the links.

    Returns:
        float32 [users, num_items + 1].

    Source: Deshpande and Karypis 2004, "Item-Based Top-N Recommendation", section 4.2.
    """
    known = [np.unique(np.asarray(h, dtype=np.int64)) for h in histories]
    known = [h[(h > 0) & (h <= neighbors.num_items)] for h in known]
    users = np.repeat(np.arange(len(known)), [len(h) for h in known])
    items = np.concatenate([np.zeros(0, dtype=np.int64), *known])
    first, counts = neighbors.offsets[items], np.diff(neighbors.offsets)[items]
    links = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    width = neighbors.num_items + 1
    flat = np.repeat(users, counts) * width + neighbors.items[links]
    scores = torch.zeros(len(known) * width)
    scores.index_add_(0, torch.from_numpy(flat), torch.from_numpy(neighbors.weights[links]))
    return scores.view(len(known), width)
