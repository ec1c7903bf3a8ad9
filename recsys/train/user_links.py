"""What is known of users, from Parquet files to an array by user_idx."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from recsys.schemas import LINKED, USER_IDX
from recsys.train.item_links import read_columns
from recsys.train.rows import Rows


def read_user_codes(urls: Sequence[str], store: Mapping[str, str]) -> Rows:
    """Codes of each user, ascending and filled up with 0, whatever the files and their order.

    The array takes 4 bytes for each user up to the last one with attributes and each code of the
    user with the most: 160 MB for 10,000,000 users of 4 attributes of one word, in every rank.

    Args:
        urls: Parquet files, at least one, with user_idx and linked (gold/user_links).
        store: as for ``read_links``.

    Returns:
        int32 [largest user_idx + 1, most codes]; row 0 is nobody.

    Raises:
        TrainingError: a file can't be read.
    """
    found = pa.concat_tables([read_columns(url, (USER_IDX, LINKED), store) for url in urls])
    users, codes = (found.column(name).to_numpy() for name in (USER_IDX, LINKED))
    order = np.lexsort((codes, users))
    users, codes = users[order], codes[order]
    counts = np.bincount(users)
    places = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.zeros((len(counts), counts.max()), dtype=np.int32)
    table[users, places] = codes
    return table
