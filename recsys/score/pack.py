"""What a scoring worker needs, as one file that Spark sends to every executor once."""

from __future__ import annotations

import functools
import io
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from recsys.bundle import load_for_scoring, load_ranker
from recsys.models import ClickRanker, Links, Recommender
from recsys.ranking.neighbors import Neighbors

_CATALOGUE = "catalogue.npz"
_BUNDLE = "bundle"
_LINKS = "links_"


@dataclass(frozen=True)
class ScoringPack:
    """A loaded pack.

    Attributes:
        model: in evaluation mode, on the CPU.
        item_ids: item ids as the log wrote them, [items + 1]; entry 0 is padding.
        popularity: float32 [items + 1], for the fallback; 0 is no candidate.
        ranker: re-ranks the model's first items; None where the bundle has none.
    """

    model: Recommender
    item_ids: pa.Array
    popularity: npt.NDArray[np.float32]
    ranker: ClickRanker | None


def write_pack(
    path: Path,
    bundle: Path,
    item_ids: list[str],
    popularity: npt.NDArray[np.float32],
    links: Neighbors | None = None,
) -> None:
    """Write the model bundle and the catalogue into one tar file.

    Args:
        links: of all items to hashes of their words, for models that know new items by them.
    """
    buffer = io.BytesIO()
    words = {} if links is None else {_LINKS + name: part for name, part in links._asdict().items()}
    np.savez(buffer, item_ids=np.array(item_ids, dtype=str), popularity=popularity, **words)
    with tarfile.open(path, "w") as tar:
        tar.add(bundle, _BUNDLE)
        info = tarfile.TarInfo(_CATALOGUE)
        info.size = buffer.tell()
        buffer.seek(0)
        tar.addfile(info, buffer)


@functools.lru_cache(maxsize=1)
def load_pack(path: str) -> ScoringPack:
    """Unpack and load, once a worker process; its threads are one a Spark task."""
    torch.set_num_threads(1)
    folder = _unpack(Path(path))
    ranker = load_ranker(folder / _BUNDLE)
    with np.load(folder / _CATALOGUE) as catalogue:
        names = [_LINKS + name for name in Neighbors._fields]
        words = [torch.from_numpy(catalogue[name]) for name in names if name in catalogue]
        links = Links(*words) if words else None
        model = load_for_scoring(folder / _BUNDLE, links)
        item_ids = pa.array(catalogue["item_ids"].tolist(), pa.string())
        return ScoringPack(model, item_ids, catalogue["popularity"], ranker)


def _unpack(path: Path) -> Path:
    folder = path.with_suffix(".unpacked")
    if not folder.exists():
        temporary = Path(tempfile.mkdtemp(dir=path.parent))
        with tarfile.open(path) as tar:
            tar.extractall(temporary, filter="data")
        try:
            temporary.rename(folder)
        except OSError:
            # Another worker of this machine was first; its copy is the same.
            shutil.rmtree(temporary, ignore_errors=True)
    return folder
