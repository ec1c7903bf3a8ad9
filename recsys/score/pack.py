"""What a scoring worker needs, as one file that Spark sends to every executor once."""

from __future__ import annotations

import fcntl
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from recsys import schemas
from recsys.bundle import load_for_scoring, load_ranker
from recsys.models import ClickRanker, Links, Recommender
from recsys.ranking.approximate import ApproximateIndex, load_clusters, use_threads
from recsys.ranking.exact_top_n import rank_products
from recsys.ranking.item_index import ItemIndex, load_index
from recsys.ranking.neighbors import Neighbors
from recsys.ranking.rules import ListRules, load_rules
from recsys.score.ranker import index_items

_ITEM_IDS = "item_ids.arrow"
_POPULARITY = "popularity.npy"
_LINKS = "links.npz"
_BUNDLE = "bundle"
_MODELS = "models.pt"
_INDEX = "index"
_CLUSTERS = "clusters"
_RULES = "rules"


@dataclass(frozen=True)
class ScoringPack:
    """A loaded pack.

    Attributes:
        model: in evaluation mode, on the CPU.
        item_ids: item ids as the log wrote them, [items + 1]; entry 0 is padding.
        popularity: float32 [items + 1], for the fallback; 0 is no candidate.
        ranker: re-ranks the model's first items; None where the bundle has none.
        index: the candidates' vectors; None for a model without vectors, or where nobody wants it.
        rules: what the lists obey; None: nothing.
        clusters: of the candidates, where lists are approximate; None: they are exact.
    """

    model: Recommender
    item_ids: pa.Array
    popularity: npt.NDArray[np.float32]
    ranker: ClickRanker | None
    index: ItemIndex | None
    rules: ListRules | None
    clusters: ApproximateIndex | None


def write_pack(
    path: Path,
    bundle: Path,
    item_ids: pa.Array,
    popularity: npt.NDArray[np.float32],
    links: Neighbors | None = None,
    rules: ListRules | None = None,
) -> None:
    """Write the model bundle and the catalogue into one tar file.

    Args:
        item_ids, popularity: see ``ScoringPack``.
        links: of all items to hashes of their words, for models that know new items by them.
        rules: what the lists obey; an item that they show to nobody is no candidate.
    """
    with tempfile.TemporaryDirectory() as name, tarfile.open(path, "w") as tar:
        folder = Path(name)
        table = pa.table({schemas.ITEM_ID: item_ids})
        file = str(folder / _ITEM_IDS)
        with pa.OSFile(file, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        if rules is not None:
            popularity = np.where(rules.allowed, popularity, np.float32(0.0))
            (folder / _RULES).mkdir()
            rules.save(folder / _RULES)
        np.save(folder / _POPULARITY, popularity)
        if links is not None:
            np.savez(folder / _LINKS, **links._asdict())
        for part in sorted(folder.iterdir()):
            tar.add(part, part.name)
        tar.add(bundle, _BUNDLE)


def load_pack(path: str, *, with_index: bool = True) -> ScoringPack:
    """Load in a worker process; its threads are one a Spark task.

    The first worker of a machine unpacks the file and lays out the model and its item vectors for
    all: they are mapped, so that a machine holds them once.

    Args:
        path: of the pack on this machine.
        with_index: False where workers rank on GPUs, which have an index of their own; the same for
            all workers of a machine.
    """
    torch.set_num_threads(1)
    use_threads(1)
    return open_pack(Path(path), with_index=with_index)


def open_pack(path: Path, *, with_index: bool = True) -> ScoringPack:
    """What ``load_pack`` does, on any threads."""
    folder = _unpack_once(path, with_index)
    # Written by _unpack_once on this machine: pickles of our own classes.
    models = torch.load(folder / _MODELS, mmap=True, weights_only=False)
    with pa.memory_map(str(folder / _ITEM_IDS)) as file:
        item_ids = pa.ipc.open_file(file).read_all().column(0).chunk(0)
    return ScoringPack(
        models["model"],
        item_ids,
        np.load(folder / _POPULARITY, mmap_mode="c"),
        models["ranker"],
        load_index(folder / _INDEX) if (folder / _INDEX).exists() else None,
        load_rules(folder / _RULES) if (folder / _RULES).exists() else None,
        load_clusters(folder / _CLUSTERS) if (folder / _CLUSTERS).exists() else None,
    )


def add_clusters(path: Path, clusters: ApproximateIndex) -> None:
    """Put clusters of the candidates into a pack that no worker has yet."""
    folder = _unpack_once(path)
    clusters.save(folder / _CLUSTERS)
    with tarfile.open(path, "a") as tar:
        tar.add(folder / _CLUSTERS, _CLUSTERS)


def _unpack_once(path: Path, with_index: bool = True) -> Path:
    folder = path.with_suffix(".unpacked")
    with path.with_suffix(".lock").open("w") as lock:
        # Released when the process ends, whichever way.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            temporary = Path(tempfile.mkdtemp(dir=path.parent))
            _unpack(path, temporary, with_index)
            temporary.rename(folder)
    return folder


def _unpack(path: Path, folder: Path, with_index: bool) -> None:
    with tarfile.open(path) as tar:
        tar.extractall(folder, filter="data")
    links = None
    if (folder / _LINKS).exists():
        with np.load(folder / _LINKS) as words:
            links = Links(*(torch.from_numpy(words[name]) for name in Neighbors._fields))
    model = load_for_scoring(folder / _BUNDLE, links)
    torch.save({"model": model, "ranker": load_ranker(folder / _BUNDLE)}, folder / _MODELS)
    if not with_index:
        return
    (folder / _INDEX).mkdir()
    index = index_items(model, np.load(folder / _POPULARITY), folder / _INDEX)
    if index is None:
        (folder / _INDEX).rmdir()
    else:
        # Compiles the loops where no machine code is kept yet: once for all workers.
        rank_products(index.vectors[:1], index, 1)
