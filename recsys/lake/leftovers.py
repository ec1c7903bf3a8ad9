"""What killed processes and old nights leave in a local lake beside its tables."""

from __future__ import annotations

import re
import shutil
from datetime import date, datetime, timedelta
from pathlib import Path

from recsys import schemas
from recsys.config import Settings, local_lake_path

_NIGHT = re.compile(r"(\d{4}-\d{2}-\d{2})-[0-9a-f]{12}(-ranker|-pretraining)?")
"""Checkpoints of a night: its date, the first letters of its fingerprint, a second training."""
_LOG_TEMPORARY = re.compile(r"\..+\.tmp(\.crc)?")


def find_leftovers(settings: Settings, kept: set[date], now: datetime) -> list[Path]:
    """Checkpoint folders of nights that are not kept, and files that were never moved in place.

    Only what has not changed for ``lake.vacuum_hours`` counts, and only in a lake on this
    machine's file systems: other stores have no such files, and know rules of their own.
    """
    root = local_lake_path(settings.lake.root)
    if root is None:
        return []
    before = (now - timedelta(hours=settings.lake.vacuum_hours)).timestamp()
    configured = settings.train.checkpoint_dir
    checkpoints = Path(configured).absolute() if configured else root / "_checkpoints"
    found = []
    for folder in sorted(checkpoints.glob("*")):
        night = _NIGHT.fullmatch(folder.name)
        if night and date.fromisoformat(night[1]) not in kept:
            found.append(folder)
        else:
            # files.py writes beside the place, under a name that begins with a dot.
            found += [folder] if folder.name.startswith(".") else sorted(folder.glob(".*"))
    for table in schemas.TABLES:
        log = root / table.name / "_delta_log"
        found += [path for path in sorted(log.glob(".*")) if _LOG_TEMPORARY.fullmatch(path.name)]
    return [path for path in found if _changed(path) < before]


def remove_leftovers(paths: list[Path]) -> int:
    """Remove files and folders; bytes freed."""
    freed = 0
    for path in paths:
        freed += _size(path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return freed


def _within(path: Path) -> list[Path]:
    return [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]


def _changed(path: Path) -> float:
    """When anything in it was last changed (Unix seconds)."""
    return max(part.lstat().st_mtime for part in _within(path))


def _size(path: Path) -> int:
    return sum(part.lstat().st_size for part in _within(path))
