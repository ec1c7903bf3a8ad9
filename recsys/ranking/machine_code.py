"""Functions that numba compiles at their first call; machine code is kept for later processes.

numba itself keeps code by file name and place: after an upgrade it may read what an older version
left, and fails where a class of that version is gone; and it does not notice that a constant of
another module is another one. So the code of each state of the sources has a folder of its own.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

_CONFIG: Any = numba.config
_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(*relaxed: str) -> Callable[[_Function], _Function]:
    """Compile at the first call; keep the code beside the source, else for the user, else nowhere.

    Args:
        relaxed: rules of floating-point arithmetic that don't matter: numba's ``fastmath``.
    """

    def compile_function(function: _Function) -> _Function:
        folder = find_folder(Path(function.__code__.co_filename).parent)
        if folder is None:
            return cast(_Function, numba.njit(fastmath=set(relaxed))(function))
        before, _CONFIG.CACHE_DIR = _CONFIG.CACHE_DIR, folder  # numba reads it here alone
        try:
            return cast(_Function, numba.njit(cache=True, fastmath=set(relaxed))(function))
        finally:
            _CONFIG.CACHE_DIR = before

    return compile_function


@functools.cache
def find_folder(sources: Path = Path(__file__).parent) -> str | None:
    """Where code of these sources may be kept; None: nowhere, or they are in an archive."""
    files = sorted(sources.glob("*.py"))
    if not files:
        return None
    state = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 (Path.home() fails where there is none)
    wanted = [Path(_CONFIG.CACHE_DIR)] if _CONFIG.CACHE_DIR else []
    for parent in (*wanted, sources / "__pycache__", home / ".cache/recsys"):
        folder = parent / f"machine-code-{state}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK | os.X_OK):
            return str(folder)
    return None
