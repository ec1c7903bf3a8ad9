"""Functions that numba compiles at their first call; machine code is kept for later processes.

numba itself keeps code by the path of a file and its time: after an upgrade it may read what an
older version left, and fails where a class of that version is gone; it does not notice that a
constant of another module is another one; and it finds nothing once an environment was unpacked
elsewhere. So the code of each state of the sources has a folder of its own, wherever they lie.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import _CacheLocator
from numba.extending import intrinsic as _intrinsic

types: Any = numba.types
intrinsic: Any = _intrinsic
"""Of numba, for what is written as LLVM's instructions; its own type of it does not fit its use."""

_CONFIG: Any = numba.config
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Locator(_CacheLocator):
    """What numba asks where the code of a function is kept (NUMBA_CACHE_LOCATOR_CLASSES)."""

    def __init__(self, function: Callable[..., Any], folder: str) -> None:
        self._line, self._folder = function.__code__.co_firstlineno, folder

    @classmethod
    def from_function(cls, function: Callable[..., Any], path: str) -> Locator | None:
        """None where it can be kept nowhere."""
        folder = find_folder(Path(path).parent)
        return None if folder is None else cls(function, folder)

    def get_cache_path(self) -> str:
        """The folder."""
        return self._folder

    def get_source_stamp(self) -> str:
        """The state of the sources."""
        return Path(self._folder).name

    def get_disambiguator(self) -> str:
        """Tells functions of one name apart."""
        return str(self._line)


def compiled(*relaxed: str) -> Callable[[_Function], _Function]:
    """Compile at the first call; keep the code beside the source, else for the user, else nowhere.

    Args:
        relaxed: rules of floating-point arithmetic that don't matter: numba's ``fastmath``.
    """

    def compile_function(function: _Function) -> _Function:
        kept = find_folder(Path(function.__code__.co_filename).parent) is not None
        before = _CONFIG.CACHE_LOCATOR_CLASSES  # numba reads it here alone
        _CONFIG.CACHE_LOCATOR_CLASSES = f"{__name__}.{Locator.__name__}"
        try:
            return cast(_Function, numba.njit(cache=kept, fastmath=set(relaxed))(function))
        finally:
            _CONFIG.CACHE_LOCATOR_CLASSES = before

    return compile_function


@functools.cache
def find_folder(sources: Path = Path(__file__).parent) -> str | None:
    """Where code of these sources may be kept; None: nowhere, or they are in an archive.

    Code that lies beside the sources where this user may not write, as in an image, is copied.
    """
    files = sorted(sources.glob("*.py"))
    if not files:
        return None
    state = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 (Path.home() fails where there is none)
    wanted = [Path(_CONFIG.CACHE_DIR)] if _CONFIG.CACHE_DIR else []
    beside, name = sources / "__pycache__", f"machine-code-{state}"
    for parent in (*wanted, beside, home / ".cache/recsys"):
        folder = parent / name
        try:
            _make(folder, beside / name)
        except OSError:
            continue
        if os.access(folder, os.W_OK | os.X_OK):
            return str(folder)
    return None


def _make(folder: Path, there: Path) -> None:
    """Make a folder, with what another one holds; no process ever sees a part of that."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if there.is_dir() and not folder.exists():
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            copied = shutil.copytree(there, Path(made) / folder.name)
            with suppress(OSError):  # another process was faster
                copied.rename(folder)
    folder.mkdir(exist_ok=True)
