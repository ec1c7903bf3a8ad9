"""Checkpoints of a training: written whole by rank 0, the newest readable one is resumed."""

from __future__ import annotations

import hashlib
import io
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recsys.files import write_atomically

log = logging.getLogger(__name__)

_KEEP = 2
_NAME = re.compile(r"step-(\d{9})\.checkpoint")
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one job in one folder.

    A file is a SHA-256 and then what ``torch.save`` made of the state, so that damage anywhere is
    noticed. The two newest are kept: should the last one be damaged, the one before serves.

    Attributes:
        folder: local or shared; made at the first save.
        identity: fingerprint and number of ranks; a checkpoint of another identity is removed.
    """

    folder: Path
    identity: str

    def save(self, global_step: int, state: dict[str, Any]) -> None:
        """Write ``state`` (tensors and plain values) and remove all but the two newest."""
        buffer = io.BytesIO()
        torch.save({"identity": self.identity, "state": state}, buffer)
        content = buffer.getvalue()
        path = self.folder / f"step-{global_step:09d}.checkpoint"
        write_atomically(path, hashlib.sha256(content).digest() + content)
        for old in self._paths()[_KEEP:]:
            old.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """The newest readable state of this identity, or None to start anew."""
        for path in self._paths():
            try:
                content = _read(path)
            except (OSError, ValueError, RuntimeError, KeyError) as error:
                log.warning("checkpoint %s is damaged and passed over: %s", path, error)
                continue
            if content["identity"] == self.identity:
                return dict(content["state"])
            log.warning("checkpoint %s is of another training and is removed", path)
            path.unlink(missing_ok=True)
        return None

    def last_step(self) -> int | None:
        """Step of the newest checkpoint by name, or None; for messages."""
        paths = self._paths()
        return _step(paths[0]) if paths else None

    def clear(self) -> None:
        """Remove all checkpoints: the training is complete."""
        for path in self._paths():
            path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(found, key=_step, reverse=True)


def _step(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def _read(path: Path) -> dict[str, Any]:
    raw = path.read_bytes()
    digest, content = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != digest:
        raise ValueError("its SHA-256 does not fit its content")
    loaded: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return loaded
