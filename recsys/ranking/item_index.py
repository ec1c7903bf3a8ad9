"""Item vectors laid out for the exact top-n: see ``exact_top_n``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recsys.ranking.tiles import PANEL, choose_codes, codes_of_a_word, largest_code, pack_items
from recsys.ranking.top_n import NAN_MESSAGE

BLOCK = 1024
"""Rows whose codes have one scale, and one bound of what rounding changed."""

_SAMPLE = (2048, 8192)
_ROWS_AT_ONCE = 65_536
_ROTATION_SEED = 1
_FILE = "{}.npy"


@dataclass(frozen=True)
class ItemIndex:
    """Items that may be in a list, by blocks of rows; longest vectors (from the centre) first.

    Attributes:
        items: item_idx of each row, int64 [rows].
        row_of: row of each item, int64 [num_items + 1]; -1 for an item that is in no list.
        vectors: float32 [rows, dims].
        longest: the largest norm of ``vectors``, float64 [1].
        centre: their mean, float64 [dims]; zeros without codes.
        rotation: orthogonal, float64 [dims, dims].
        codes: the rotated vectors less the centre, divided by their block's ``scale`` and rounded,
            as ``pack_items`` lays them out, [blocks * BLOCK / PANEL, words, PANEL, codes of a
            word]; none for a GPU.
        scale: float64 [blocks].
        radius: the largest norm of a vector less the centre, float64 [blocks].
        error: the largest norm of what rounding changed, float64 [blocks]; zeros without codes.
    """

    items: Tensor
    row_of: Tensor
    vectors: Tensor
    longest: Tensor
    centre: Tensor
    rotation: Tensor
    codes: Tensor
    scale: Tensor
    radius: Tensor
    error: Tensor

    def __len__(self) -> int:
        return len(self.items)

    @property
    def dims(self) -> int:
        """Of the vectors."""
        return self.vectors.shape[1]

    @property
    def kind(self) -> torch.dtype:
        """Of codes: int8 or int16. Whoever reads an index from a file takes them as they are."""
        return torch.int8 if self.codes.dtype == torch.uint8 else torch.int16

    @property
    def stride(self) -> int:
        """Every so many rows one is in ``sample``; divides BLOCK."""
        wanted = len(self) / min(max(len(self) // 12, _SAMPLE[0]), _SAMPLE[1])
        return min(BLOCK, 2 ** math.ceil(math.log2(max(wanted, 1.0))))

    @cached_property
    def sample(self) -> Sample:
        """Some of the items, of all lengths."""
        vectors = (self.vectors[:: self.stride].double() - self.centre) @ self.rotation
        codes, scale, _ = quantize(vectors, self.kind, per_row=False)
        rows = -(-len(codes) // PANEL) * PANEL
        return Sample(pack_items(codes, rows).contiguous(), float(scale[0]), len(codes))


class Sample(NamedTuple):
    """Every so many items of an index.

    Attributes:
        codes: laid out as ``ItemIndex.codes``.
        scale: of all codes.
        size: items; zeros follow.
    """

    codes: Tensor
    scale: float
    size: int


def build_index(
    vectors: Tensor,
    rankable: Tensor,
    *,
    folder: Path | None = None,
) -> ItemIndex:
    """Lay out the vectors of items.

    Args:
        vectors: float32 [num_items + 1, dims]; row 0 is padding.
        rankable: bool [num_items + 1]; others are in no list. Padding never is.
        folder: holds the arrays, so that they need not fit into memory (see ``load_index``);
            None keeps them in memory.

    Raises:
        ValueError: the vector of a rankable item is not finite.
    """
    use_codes = vectors.device.type == "cpu"
    allowed = rankable.clone()
    allowed[0] = False
    items = torch.nonzero(allowed)[:, 0]
    centre = _find_centre(vectors, items, use_codes)
    length = torch.empty(len(items), dtype=torch.float64, device=vectors.device)
    for at, part in _parts(vectors, items):
        length[at : at + len(part)] = torch.linalg.vector_norm(part.double() - centre, dim=1)
    if not torch.isfinite(length).all():
        raise ValueError(NAN_MESSAGE)
    length, order = torch.sort(length, descending=True, stable=True)
    items = items[order]
    row_of = torch.full((len(vectors),), -1, dtype=torch.int64, device=vectors.device)
    row_of[items] = torch.arange(len(items), device=vectors.device)
    ordered = _allocate(folder, "vectors", (len(items), vectors.shape[1]), torch.float32, vectors)
    longest = torch.zeros(1, dtype=torch.float64, device=vectors.device)
    for at, part in _parts(vectors, items):
        ordered[at : at + len(part)] = part
        norms = torch.linalg.vector_norm(part.double(), dim=1)
        longest = torch.maximum(longest, norms.max())
    index = ItemIndex(
        items, row_of, ordered, longest, centre, _rotation(centre),
        *_make_codes(ordered, centre, length[::BLOCK], use_codes, folder),
    )  # fmt: skip
    if folder is not None:
        _save(index, folder)
    return index


def load_index(folder: Path) -> ItemIndex:
    """The index in a folder, on the CPU: mapped, so that processes of a machine share it."""
    return ItemIndex(**{f.name: _map(folder / _FILE.format(f.name)) for f in fields(ItemIndex)})


def _map(path: Path) -> Tensor:
    # Copy on write: torch wants memory that could be written, and nobody does.
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def _save(index: ItemIndex, folder: Path) -> None:
    for field in fields(index):
        path = folder / _FILE.format(field.name)
        if not path.exists():
            np.save(path, getattr(index, field.name).cpu().numpy())


def _parts(vectors: Tensor, items: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Vectors of items, some at a time, and the place of the first."""
    for at in range(0, len(items), _ROWS_AT_ONCE):
        yield at, vectors[items[at : at + _ROWS_AT_ONCE]].float()


def _find_centre(vectors: Tensor, items: Tensor, use_codes: bool) -> Tensor:
    total = torch.zeros(vectors.shape[1], dtype=torch.float64, device=vectors.device)
    if use_codes and len(items):
        for _, part in _parts(vectors, items):
            total += part.double().sum(dim=0)
        total /= len(items)
    return total


def _rotation(centre: Tensor) -> Tensor:
    """Spreads a large component (a bias, say) over all, so that one scale fits them."""
    seed = np.random.default_rng(_ROTATION_SEED)
    made: npt.NDArray[np.float64] = np.linalg.qr(seed.standard_normal((len(centre),) * 2))[0]
    return torch.from_numpy(made).to(centre)


def _make_codes(
    vectors: Tensor, centre: Tensor, radius: Tensor, use_codes: bool, folder: Path | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes, scale, radius and error, as in ``ItemIndex``."""
    blocks, dims = len(radius) if use_codes else 0, vectors.shape[1]
    kind = choose_codes(dims)
    a_word, stored = codes_of_a_word(kind), torch.uint8 if kind == torch.int8 else kind
    shape = blocks * (BLOCK // PANEL), -(-dims // a_word), PANEL, a_word
    codes = _allocate(folder, "codes", shape, stored, vectors)
    scale, error = torch.ones_like(radius), torch.zeros_like(radius)
    rotation = _rotation(centre)
    for block in range(blocks):
        part = vectors[block * BLOCK : (block + 1) * BLOCK]
        code, step, wrong = quantize((part.double() - centre) @ rotation, kind, per_row=False)
        codes[block * (BLOCK // PANEL) :][: BLOCK // PANEL] = pack_items(code, BLOCK)
        scale[block], error[block] = step.max(), wrong.max()
    return codes, scale, radius, error


def quantize(vectors: Tensor, kind: torch.dtype, *, per_row: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Round float64 [rows, dims] to int8 or int16 times a scale.

    Returns:
        Codes [rows, dims]; scales, float64 [rows] (all the same, unless ``per_row``); norms of what
        rounding changed, float64 [rows].
    """
    largest = vectors.abs().amax(dim=1, keepdim=True)
    if not per_row:
        largest = largest.amax(dim=0, keepdim=True).expand_as(largest)
    step = largest / largest_code(vectors.shape[1], kind)
    scale = torch.where(step > 0, step, torch.ones_like(step))
    codes = torch.round(vectors / scale)
    wrong = torch.linalg.vector_norm(vectors - codes * scale, dim=1)
    return codes.to(kind), scale[:, 0], wrong


def _allocate(
    folder: Path | None, name: str, shape: tuple[int, ...], dtype: torch.dtype, like: Tensor
) -> Tensor:
    if folder is None or 0 in shape:
        return torch.empty(shape, dtype=dtype, device=like.device)
    kind = torch.empty(0, dtype=dtype).numpy().dtype
    path = folder / _FILE.format(name)
    return torch.from_numpy(np.lib.format.open_memmap(path, "w+", kind, shape))
