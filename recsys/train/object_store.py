"""s3a:// for Petastorm, through the S3 client that pyarrow has built in.

Petastorm 0.13 still needs a file system of pyarrow's old kind, and pyarrow has none for S3: this
one hands the few calls that are made to its new one.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlparse

from pyarrow.fs import FileType

from recsys.s3 import open_s3

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pyarrow.filesystem import FileSystem as OldFileSystem

_SCHEMES = ("s3a", "s3")


class S3Files(OldFileSystem):
    """The part of pyarrow's old file system interface that reading Parquet files needs.

    Paths are ``/bucket/key``.

    Args:
        store: as for ``open_s3``.
    """

    def __init__(self, store: Mapping[str, str]) -> None:
        self._store = open_s3(store)

    def open(self, path: str, mode: str = "rb") -> Any:
        """A file to read from any place in it."""
        assert mode == "rb", "training only reads"
        return self._store.open_input_file(_key(path))

    def exists(self, path: str) -> bool:
        return bool(self._type(path) != FileType.NotFound)

    def isfile(self, path: str) -> bool:
        return bool(self._type(path) == FileType.File)

    def isdir(self, path: str) -> bool:
        return bool(self._type(path) == FileType.Directory)

    def _type(self, path: str) -> Any:
        return self._store.get_file_info(_key(path)).type


def _key(path: str) -> str:
    return path.lstrip("/")


def find_store(url: str, store: Mapping[str, str]) -> S3Files | None:
    """The file system for a url of S3, ``None`` for one that Petastorm itself can open."""
    return S3Files(store) if urlparse(url).scheme in _SCHEMES else None


def as_path(url: str) -> str:
    """The url for a reader that is given the file system: it takes the path of file:// alone."""
    bucket_and_key = url.partition("://")[2]
    return f"file:///{bucket_and_key}"
