"""Links of items, to attributes and to each other, from Parquet files to what a model takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import unquote, urlparse

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pyarrow import fs

from recsys.errors import TrainingError
from recsys.models.items import Links
from recsys.ranking.neighbors import group_links
from recsys.schemas import ITEM_IDX, LINKED, WEIGHT
from recsys.train.object_store import find_store

_COLUMNS = [ITEM_IDX, LINKED, WEIGHT]


def read_links(urls: Sequence[str], num_items: int, store: Mapping[str, str]) -> Links:
    """Links in the order of item and linked index, whatever the files and their order.

    Args:
        urls: Parquet files, at least one, with item_idx, linked and weight; percent-encoded.
        num_items: largest item_idx; links of later items are left out.
        store: of s3a:// files: ``endpoint`` and ``region`` where they are not Amazon's defaults.

    Raises:
        TrainingError: a file can't be read.
    """
    found = pa.concat_tables([read_columns(url, _COLUMNS, store) for url in urls])
    items, linked = (found.column(name).to_numpy().astype(np.int64) for name in _COLUMNS[:2])
    weights = found.column(WEIGHT).to_numpy().astype(np.float32)
    known = (items > 0) & (items <= num_items)
    items, linked, weights = items[known], linked[known], weights[known]
    return Links(*map(torch.from_numpy, group_links(items, linked, weights, num_items)))


def read_columns(url: str, columns: Sequence[str], store: Mapping[str, str]) -> pa.Table:
    """Columns of a Parquet file.

    Raises:
        TrainingError: the file can't be read.
    """
    try:
        plain = unquote(url)
        s3 = find_store(plain, store)
        if s3 is not None:
            with s3.open(plain.partition("://")[2]) as file:
                return pq.read_table(file, columns=list(columns))
        if urlparse(url).scheme == "file":
            return pq.read_table(urlparse(plain).path, columns=list(columns), memory_map=True)
        system, path = fs.FileSystem.from_uri(plain)
        return pq.read_table(path, columns=list(columns), filesystem=system)
    except Exception as error:
        raise TrainingError(
            f"links of items or users can't be read: {error}",
            where=url,
            do="the pinned version was changed or vacuumed; rebuild gold and train again",
        ) from error
