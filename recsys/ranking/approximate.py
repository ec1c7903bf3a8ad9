"""Approximate top-n for huge catalogues: a user is compared with the items of some clusters alone.

Items are clustered by k-means, about four times the root of their number. A user's vector is
multiplied with all centroids, then with the items of the ``probes`` clusters that come first (an
inverted file: Jégou, Douze and Schmid 2011, "Product Quantization for Nearest Neighbor Search",
section 4). There an item is a byte a dim. What is found is scored again as ``exact_scores`` defines
a score, so that a list differs from the exact one only by items that were not found.

Seen items are searched for and dropped, hidden ones are left out by faiss; whoever would get a
short list, or has seen very many items, is ranked exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recsys.ranking.exact_scores import score_pairs
from recsys.ranking.exact_top_n import rank_products
from recsys.ranking.item_index import ItemIndex
from recsys.ranking.top_n import PADDING_ITEM, IntArray, Ragged, RankedItems, flatten

_FILE, _PROBES = "clusters.faiss", "probes"
_ROUNDS = 8  # of k-means
_POINTS_A_CLUSTER = 64
_ROWS_AT_ONCE = 262_144
_SEED = 1
_MOST_SEEN = 1024
_ID_BYTES = 8


@dataclass(frozen=True)
class ApproximateIndex:
    """Clusters of the items of an ``ItemIndex``.

    Attributes:
        clusters: faiss.IndexIVF over inner products; ids are item_idx.
        probes: clusters that a user is compared with, at least 1.
    """

    clusters: Any
    probes: int = 1

    @property
    def count(self) -> int:
        """Of clusters."""
        return int(self.clusters.nlist)

    @property
    def identity(self) -> str:
        """What lists depend on, beside the items."""
        return f"approximate {self.probes} of {self.count}"

    def with_probes(self, probes: int) -> ApproximateIndex:
        """The same clusters, of which more or fewer are searched."""
        return replace(self, probes=probes)

    def save(self, folder: Path) -> None:
        """Write it into a folder, which is made."""
        folder.mkdir()
        faiss.write_index(self.clusters, str(folder / _FILE))
        (folder / _PROBES).write_text(str(self.probes))

    def rank(
        self,
        users: Tensor,
        index: ItemIndex,
        n: int,
        seen: Ragged | Sequence[IntArray] | None = None,
        shown: Tensor | None = None,
    ) -> RankedItems:
        """As ``rank_products``, but that items of a list may be missing; on the CPU.

        Lists are as long as exact ones.

        Args:
            users: vectors, float32 [users, dims].
            index: the items that the clusters were made of.
            n: length of the lists, at least 1.
            seen: item_idx to leave out for each user, as ``rank_items`` takes them.
            shown: items of the index that any of these users may be shown, bool [num_items + 1];
                None: all.

        Raises:
            ValueError: as ``rank_products``.
        """
        users = users.float()
        seen = flatten([np.zeros(0, np.int64)] * len(users)) if seen is None else seen
        offsets, values = seen if isinstance(seen, tuple) else flatten(seen)
        owner, known = _find_known(offsets, values, index)
        count = np.bincount(owner, minlength=len(users))
        # Users with about as many seen items are searched together, as deep as the most of them.
        depth = np.where(count > 0, 2 ** np.ceil(np.log2(np.maximum(count, 1))), 0).astype(int)
        taken = owner * len(index.row_of) + known
        items = torch.full((len(users), n), PADDING_ITEM)
        scores = torch.full((len(users), n), -torch.inf)
        for more in np.unique(depth[count <= _MOST_SEEN]):
            some = torch.from_numpy(np.flatnonzero(depth == more))
            found = self._find(users[some], n + int(more), shown)
            new = ~np.isin(some.numpy()[:, None] * len(index.row_of) + found, taken)
            items[some], scores[some] = _take_best(users[some], index, n, found, new & (found > 0))
        short = torch.nonzero(items[:, -1] == PADDING_ITEM)[:, 0]
        if len(short):
            own = [values[offsets[user] : offsets[user + 1]] for user in short.tolist()]
            items[short], scores[short] = rank_products(users[short], index, n, own, shown)
        return RankedItems(items, scores)

    def _find(self, users: Tensor, n: int, shown: Tensor | None) -> npt.NDArray[np.int64]:
        """item_idx of n and some more (codes are rounded) for each user, -1 where there is none."""
        count = min(n + n // 2 + 8, self.clusters.ntotal)
        chosen = None
        if shown is not None:
            chosen = faiss.IDSelectorBitmap(np.packbits(shown.numpy(), bitorder="little"))
        given = faiss.SearchParametersIVF(nprobe=self.probes, sel=chosen)
        found: npt.NDArray[np.int64] = self.clusters.search(users.numpy(), count, params=given)[1]
        return found


def _find_known(offsets: IntArray, values: IntArray, index: ItemIndex) -> tuple[IntArray, IntArray]:
    """Seen items that are in the index: user and item_idx, int64."""
    values = np.asarray(values, dtype=np.int64)
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    inside = (values > 0) & (values < len(index.row_of))
    owner, values = owner[inside], values[inside]
    known = index.row_of.numpy()[values] >= 0
    return owner[known], values[known]


def _take_best(
    users: Tensor,
    index: ItemIndex,
    n: int,
    found: npt.NDArray[np.int64],
    real: npt.NDArray[np.bool_],
) -> tuple[Tensor, Tensor]:
    """Lists of the real ones among found items, [users, n] each, by their exact scores."""
    user, place = np.nonzero(real)
    rows = index.row_of[torch.from_numpy(found[user, place])]
    scores = np.full(found.shape, -np.inf, dtype=np.float32)
    scores[user, place] = score_pairs(
        users, index.vectors, torch.from_numpy(user), rows, index.longest
    ).numpy()
    items = np.where(real, found, PADDING_ITEM)
    order = np.lexsort((items, -scores), axis=1)[:, :n]
    missing = ((0, 0), (0, n - order.shape[1]))
    items = np.pad(np.take_along_axis(items, order, 1), missing, constant_values=PADDING_ITEM)
    scores = np.pad(np.take_along_axis(scores, order, 1), missing, constant_values=-np.inf)
    return torch.from_numpy(items), torch.from_numpy(scores)


def build_clusters(index: ItemIndex) -> ApproximateIndex:
    """Cluster the items of an index, of which there must be some; seeded, with all threads."""
    clusters = train_clusters(index)
    add_items(clusters, index)
    return clusters


def train_clusters(index: ItemIndex) -> ApproximateIndex:
    """Centroids of a sample of the items; none is in a cluster yet."""
    count = count_clusters(len(index))
    clusters = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(index.dims),
        index.dims,
        count,
        faiss.ScalarQuantizer.QT_8bit,
        faiss.METRIC_INNER_PRODUCT,
        False,  # a code is of the vector, not of its difference from the centroid
    )
    clusters.cp.seed, clusters.cp.niter = _SEED, _ROUNDS
    clusters.cp.min_points_per_centroid = 1
    clusters.cp.max_points_per_centroid = _POINTS_A_CLUSTER
    dice = np.random.default_rng(_SEED)
    sample = dice.choice(len(index), min(len(index), count * _POINTS_A_CLUSTER), replace=False)
    clusters.train(index.vectors.numpy()[np.sort(sample)])
    return ApproximateIndex(clusters)


def add_items(clusters: ApproximateIndex, index: ItemIndex) -> None:
    """Put all items of the index into their clusters."""
    vectors, items = index.vectors.numpy(), index.items.numpy()
    for at in range(0, len(index), _ROWS_AT_ONCE):
        part = slice(at, at + _ROWS_AT_ONCE)
        clusters.clusters.add_with_ids(np.ascontiguousarray(vectors[part]), items[part])


def count_clusters(items: int) -> int:
    """Of so many items: four times the root, so that centroids cost as much as 16 clusters."""
    return max(1, min(items, round(4 * math.sqrt(items))))


def clusters_bytes(items: int, dims: int) -> int:
    """Of the clusters of so many items: codes, ids and centroids."""
    return items * (dims + _ID_BYTES) + 4 * dims * count_clusters(items)


def building_bytes(items: int, dims: int) -> int:
    """That ``build_clusters`` needs: the clusters, and the vectors that it learns from."""
    learned = min(items, count_clusters(items) * _POINTS_A_CLUSTER)
    return clusters_bytes(items, dims) + 4 * dims * learned


def load_clusters(folder: Path) -> ApproximateIndex:
    """What ``save`` wrote, mapped, so that processes of a machine share it."""
    clusters = faiss.read_index(str(folder / _FILE), faiss.IO_FLAG_MMAP)
    # By default 32 threads read ahead of every search.
    faiss.downcast_InvertedLists(clusters.invlists).prefetch_nthread = 0
    return ApproximateIndex(clusters, int((folder / _PROBES).read_text()))


def use_threads(count: int) -> int:
    """Set how many threads faiss takes in this process; how many it took before."""
    before: int = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    return before
