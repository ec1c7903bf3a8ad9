"""Checkpoints of a training: written by rank 0, or a part by each stage; the newest is resumed."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from recsys.errors import TrainingError
from recsys.files import hash_file, new_file
from recsys.train.job import TrainingJob

log = logging.getLogger(__name__)

_KEEP = 2
_NAME = re.compile(r"step-(\d{9})\.checkpoint")
_PART = re.compile(r"step-(\d{9})\.stage-\d+-of-\d+")
_STAGES = "stages"
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one job in one folder.

    A file is what ``torch.save`` made of the state and then its SHA-256, so that damage anywhere is
    noticed. The two newest are kept: should the last one be damaged, the one before serves. Neither
    writing nor reading takes a second copy of the state in memory. In a pipeline each stage writes
    a part of the state to such a file of its own before: so no rank ever holds what it does not
    need, and who loads gets the whole.

    Attributes:
        folder: local or shared; made at the first save.
        identity: ``TrainingJob.identity``; a checkpoint of another one is removed. The number of
            ranks is not part of it: another one goes on (see ``plan.Takeover``).
    """

    folder: Path
    identity: str

    def save(self, global_step: int, state: dict[str, Any]) -> None:
        """Write ``state`` (tensors and plain values) and remove all but the two newest.

        Where ``state`` has ``stages``, an int, the parts of that many less one are there already.
        """
        path = self.folder / f"step-{global_step:09d}.checkpoint"
        write_checkpoint(path, {"identity": self.identity, "state": state})
        for old in self._paths()[_KEEP:]:
            old.unlink(missing_ok=True)
        self._remove_parts(self.steps())

    def save_part(self, global_step: int, stage: int, stages: int, part: dict[str, Any]) -> None:
        """Write what a stage (from 1) adds to the state of a step: before that is written.

        Args:
            part: has the state's form, dicts within dicts.
        """
        write_checkpoint(self._part_path(global_step, stage, stages), part)

    def load(self) -> dict[str, Any] | None:
        """The newest readable state of this identity, or None to start anew."""
        for path in self._paths():
            try:
                content = read_checkpoint(path)
                if content["identity"] == self.identity:
                    return self._add_parts(_step(path), dict(content["state"]))
            except (OSError, ValueError, RuntimeError, KeyError) as error:
                log.warning("checkpoint %s is damaged and passed over: %s", path, error)
                continue
            log.warning("checkpoint %s is of another training and is removed", path)
            path.unlink(missing_ok=True)
        return None

    def read(self, global_step: int) -> dict[str, Any]:
        """The state of a step that another rank has loaded: a copy, as that rank may remove it.

        Raises:
            TrainingError: this rank can't read it.
        """
        path = self.folder / f"step-{global_step:09d}.checkpoint"
        try:
            content = read_checkpoint(path, mapped=False)
            return self._add_parts(global_step, dict(content["state"]), mapped=False)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise TrainingError(
                f"a rank can't read the checkpoint that rank 0 goes on with: {error}",
                where=str(path),
                do="let train.checkpoint_dir be a folder that all ranks share",
            ) from error

    def last_step(self) -> int | None:
        """Step of the newest checkpoint by name, or None; for messages."""
        paths = self._paths()
        return _step(paths[0]) if paths else None

    def steps(self) -> list[int]:
        """Steps of all checkpoints, newest first."""
        return [_step(path) for path in self._paths()]

    def clear(self) -> None:
        """Remove all checkpoints: the training is complete."""
        for path in self._paths():
            path.unlink(missing_ok=True)
        self._remove_parts(())

    def _part_path(self, global_step: int, stage: int, stages: int) -> Path:
        return self.folder / f"step-{global_step:09d}.stage-{stage}-of-{stages}"

    def _add_parts(
        self, global_step: int, state: dict[str, Any], mapped: bool = True
    ) -> dict[str, Any]:
        stages = state.pop(_STAGES, 1)
        for stage in range(1, stages):
            _merge(state, read_checkpoint(self._part_path(global_step, stage, stages), mapped))
        return state

    def _remove_parts(self, kept: Collection[int]) -> None:
        """Those of all steps but ``kept``; a training may have ended between part and whole."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            match = _PART.fullmatch(path.name)
            if match and int(match[1]) not in kept:
                path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        found = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(found, key=_step, reverse=True)


def _step(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def _merge(state: dict[Any, Any], part: dict[Any, Any]) -> None:
    """Add what ``part`` has, within dicts that both have."""
    for name, value in part.items():
        if isinstance(value, dict) and name in state:
            _merge(state[name], value)
        else:
            state[name] = value


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values to a file, whole or not at all."""
    with new_file(path) as file:
        torch.save(content, file)
        digest = hash_file(file)
        file.seek(0, os.SEEK_END)
        file.write(digest)


def read_checkpoint(path: Path, mapped: bool = True) -> dict[str, Any]:
    """Inverse of ``write_checkpoint``.

    Args:
        mapped: tensors are mapped to the file, not copied to memory.

    Raises:
        OSError, ValueError, RuntimeError: it can't be read, or is damaged.
    """
    size = path.stat().st_size - _DIGEST_BYTES
    with path.open("rb") as file:
        if size < 0 or hash_file(file, size) != file.read():
            raise ValueError("its SHA-256 does not fit its content")
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    return loaded


@contextmanager
def fitting(job: TrainingJob) -> Iterator[None]:
    """Inside of the block a checkpoint is loaded.

    Raises:
        TrainingError: it has the job's fingerprint, and yet is of another model or release.
    """
    try:
        yield
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise TrainingError(
            f"the checkpoint is of another model or release: {' '.join(lines)[:300].strip()}",
            where=job.checkpoint_dir,
            do="delete its files *.checkpoint there (or that folder) to train from the beginning",
        ) from error
