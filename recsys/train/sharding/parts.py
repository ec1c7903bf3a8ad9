"""Parts of split tables in files: each rank writes its own, ranks of any number read them."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recsys.errors import TrainingError
from recsys.train.checkpoint import CheckpointStore, read_checkpoint, write_checkpoint

log = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d{9})\.rows-\d+-of-(\d+)")


class PartFiles:
    """Files beside the checkpoints of a training, for what is not in these.

    Attributes:
        folder: of the checkpoints, shared by all ranks.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, global_step: int, rank: int, ranks: int, part: dict[str, Any]) -> None:
        """Write this rank's part: ``tables`` (tensors [own, ...] by name) and plain ``values``."""
        name = f"step-{global_step:09d}.rows-{rank}-of-{ranks}"
        write_checkpoint(self.folder / name, part)

    def load(self, global_step: int, rank: int, ranks: int) -> dict[str, Any]:
        """This rank's part, whatever the number of ranks that wrote.

        Raises:
            TrainingError: a file is missing or damaged.
        """
        of_step = [path for path, step in self._files() if step == global_step]
        wrote = int(_NAME.fullmatch(of_step[0].name)[2]) if of_step else ranks  # type: ignore[index]
        names = [f"step-{global_step:09d}.rows-{other}-of-{wrote}" for other in range(wrote)]
        if wrote == ranks:
            return dict(self._read(names[rank]))
        parts = [self._read(name) for name in names]
        tables = {
            name: deal_rows([part["tables"][name] for part in parts], rank, ranks)
            for name in parts[0]["tables"]
        }
        return {"tables": tables, "values": parts[0]["values"]}

    def remove_left(self) -> None:
        """Remove files of steps of which there is no checkpoint any more."""
        kept = CheckpointStore(self.folder, "").steps()
        for path, step in self._files():
            if step not in kept:
                path.unlink(missing_ok=True)

    def _files(self) -> list[tuple[Path, int]]:
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        matches = [(path, _NAME.fullmatch(path.name)) for path in sorted(found)]
        return [(path, int(match[1])) for path, match in matches if match]

    def _read(self, name: str) -> dict[str, Any]:
        try:
            return read_checkpoint(self.folder / name)
        except (OSError, ValueError, RuntimeError) as error:
            raise TrainingError(
                f"a rank's part of the item table can't be read: {error}",
                where=str(self.folder / name),
                do=f"delete the folder {self.folder} and train again from the start",
            ) from error


def deal_rows(parts: Sequence[Tensor], rank: int, ranks: int) -> Tensor:
    """This rank's rows of a table whose row i is in part i mod len(parts), in order.

    Args:
        parts: [rows of the part, ...] each; may be memory-mapped, only own rows are read.
        rank, ranks: row i is wanted where i mod ranks is rank.
    """
    rows = torch.arange(sum(map(len, parts)))[rank::ranks]
    own = parts[0].new_empty(len(rows), *parts[0].shape[1:])
    for number, part in enumerate(parts):
        here = rows % len(parts) == number
        own[here] = part[rows[here] // len(parts)]
    return own
