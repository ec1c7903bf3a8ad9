"""What items share, as files that a training reads: neighbours and attributes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from recsys import schemas
from recsys.benchmark.sequence_file import IntArray

FloatArray = npt.NDArray[np.float64]
_PAIRS_AT_ONCE = 1 << 22


def find_neighbors(
    sequences: Sequence[IntArray], num_items: int, window: int, most: int
) -> tuple[IntArray, IntArray, FloatArray]:
    """Items that the same users had, as (item_idx, neighbor_idx, weight), ordered by both.

    The weight of a pair is count / sqrt(degree * degree), a degree being an item's sum of counts
    (the normalisation of He et al. 2020, "LightGCN", equation 3). Of an item the ``most`` highest
    weights are kept, ties by the lower index.

    Args:
        sequences: item_idx of each user, oldest first.
        num_items: largest item_idx.
        window: events apart from each other at most.
        most: neighbours of an item at most.
    """
    width = num_items + 1
    keys: IntArray = np.zeros(0, dtype=np.int64)
    counts: IntArray = np.zeros(0, dtype=np.int64)
    for pairs in _pairs(sequences, width, window):
        both = np.concatenate([keys, pairs])
        keys, places = np.unique(both, return_inverse=True)
        more = np.concatenate([counts, np.ones(len(pairs), dtype=np.int64)])
        counts = np.bincount(places, weights=more, minlength=len(keys)).astype(np.int64)
    items, neighbors = keys // width, keys % width
    degrees = np.bincount(items, weights=counts, minlength=width)
    weights = counts / np.sqrt(degrees[items] * degrees[neighbors])
    order = np.lexsort((neighbors, -weights, items))
    ranks = np.arange(len(order)) - np.searchsorted(items, items)
    kept = np.sort(order[ranks < most])
    return items[kept], neighbors[kept], weights[kept]


def _pairs(sequences: Sequence[IntArray], width: int, window: int) -> Iterator[IntArray]:
    """Ordered pairs of different items within the window, as keys item * width + neighbour."""
    made: list[IntArray] = []
    size = 0
    for items in sequences:
        for apart in range(1, min(window, len(items) - 1) + 1):
            first, second = items[:-apart], items[apart:]
            differ = first != second
            first, second = first[differ], second[differ]
            made += [first * width + second, second * width + first]
            size += 2 * len(first)
        if size >= _PAIRS_AT_ONCE:
            yield np.concatenate(made)
            made, size = [], 0
    if made:
        yield np.concatenate(made)


def link_attributes(attributes: Sequence[IntArray]) -> tuple[IntArray, IntArray, FloatArray]:
    """Links (item_idx, attribute, weight) so that an item gets the sum of its attributes.

    On Beauty the sum was better than the mean (see benchmarks/README.md): attributes then weigh
    more than the item's own vector, which few events shape.
    """
    counts = np.array([len(values) for values in attributes])
    items = np.repeat(np.arange(len(counts)), counts)
    columns = np.concatenate([np.asarray(values, dtype=np.int64) for values in attributes])
    return items, columns, np.ones(len(items))


def write_links(path: Path, links: tuple[IntArray, IntArray, FloatArray]) -> str:
    """Write links as ``recsys.train.item_links`` reads them; returns the url of the file."""
    items, columns, weights = links
    table = pa.table(
        {
            schemas.ITEM_IDX: pa.array(items, pa.int32()),
            schemas.LINKED: pa.array(columns, pa.int32()),
            schemas.WEIGHT: pa.array(weights, pa.float32()),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path.absolute().as_uri()
