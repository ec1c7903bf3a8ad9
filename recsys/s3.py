"""S3 stores, through the client that pyarrow has built in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlparse

from pyarrow.fs import S3FileSystem


def open_s3(store: Mapping[str, str]) -> S3FileSystem:
    """The store's file system; paths in it are ``bucket/key``.

    Credentials come from where AWS tools look for them: the environment, ~/.aws, the machine's
    role.

    Args:
        store: ``endpoint``, http:// or https:// (without it Amazon's), and ``region`` (without it
            the environment's).
    """
    options: dict[str, Any] = {"region": store["region"]} if "region" in store else {}
    if "endpoint" in store:
        address = urlparse(store["endpoint"])
        options |= {"endpoint_override": address.netloc, "scheme": address.scheme}
    return S3FileSystem(**options)
