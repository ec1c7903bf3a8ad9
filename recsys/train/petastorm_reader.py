"""Row groups of pinned Parquet files through Petastorm, in exactly the order asked for.

The only importer of Petastorm. With several workers its thread pool reads results round robin,
but skips a worker that has nothing to do *yet*, so a slow start can swap row groups. Readers of
one thread each have no such race; ``workers`` of them are read in turn, which keeps the order.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import numpy as np

from recsys.errors import TrainingError
from recsys.schemas import CONTEXT, USER_IDX, DataFile
from recsys.train.object_store import as_path, find_store
from recsys.train.rows import Channels, Rows

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from petastorm.reader import make_batch_reader

_DAMAGED = "the pinned version was changed or vacuumed; rebuild gold and train again"
_NO_HDFS = (
    "ranks read HDFS through Hadoop's own client (its command `hadoop` on PATH, and libhdfs.so): "
    "install it, or set feed.stage_dir, a folder that executors and ranks share"
)
_QUEUED_ROW_GROUPS = 4

# It reports at level INFO that files are plain Parquet, which they are meant to be.
logging.getLogger("petastorm").setLevel(logging.WARNING)


def read_row_groups(
    files: Sequence[DataFile],
    workers: int,
    channels: Channels,
    store: Mapping[str, str] | None = None,
) -> Generator[Rows, None, None]:
    """The windows of each file, int32 [rows, width], in the order of ``files`` (see ``Rows``).

    Args:
        files: one row group each; ``file://``, ``hdfs://`` or ``s3a://``, percent-encoded.
        workers: reading threads.
        channels: what is read of each event.
        store: of s3a:// files: ``endpoint`` and ``region`` where they are not Amazon's defaults.

    Raises:
        TrainingError: a file is missing or unreadable, or does not hold what the plan says.
    """
    workers = min(workers, len(files))
    columns = [*channels.columns, CONTEXT]
    readers: list[Any] = []
    # Petastorm calls deprecated pyarrow functions for every row group it touches. The filter is
    # global and stays: its own threads would lose a temporary one.
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category, module=r"petastorm|pyarrow")
    try:
        readers += [
            _open(files[worker::workers], columns, store or {}) for worker in range(workers)
        ]
        for position, file in enumerate(files):
            yield _next_rows(readers[position % workers], file, columns, channels)
    finally:
        for reader in readers:
            reader.stop()
            reader.join()


def _open(files: Sequence[DataFile], columns: Sequence[str], store: Mapping[str, str]) -> Any:
    # Petastorm takes paths as they are, Spark writes them percent-encoded.
    urls = [unquote(file.url) for file in files]
    try:
        s3 = find_store(urls[0], store)
        return make_batch_reader(
            urls if s3 is None else [as_path(url) for url in urls],
            schema_fields=[f"^{column}$" for column in columns],
            reader_pool_type="thread",
            workers_count=1,
            results_queue_size=_QUEUED_ROW_GROUPS,
            shuffle_row_groups=False,
            shuffle_rows=False,
            num_epochs=1,
            hdfs_driver="libhdfs",
            filesystem=s3,
            convert_early_to_numpy=True,
        )
    except Exception as error:
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        raise TrainingError(
            f"Petastorm can't open the training files: {error}",
            where=f"{files[0].url}{more}",
            do=_NO_HDFS if urls[0].startswith("hdfs://") else _DAMAGED,
        ) from error


def _next_rows(reader: Any, file: DataFile, columns: Sequence[str], channels: Channels) -> Rows:
    try:
        try:
            found = next(reader)
        except StopIteration:
            # Petastorm asks "are all results read?" and then "is all work handed out?". Between
            # the two its other thread can hand out the last work, and the end comes too early.
            # Asked again, with all work handed out, the answer is right.
            found = next(reader)
        arrays = [np.asarray(getattr(found, column)) for column in columns]
    except StopIteration:
        arrays = [np.zeros(0)] * len(columns)
    except Exception as error:
        raise TrainingError(
            f"a training file can't be read: {error}", where=file.url, do=_DAMAGED
        ) from error
    *arrays, context = arrays
    for column, array in zip(columns, arrays, strict=False):
        planned = (file.rows,) if column == USER_IDX else (file.rows, file.bucket)
        if array.shape != planned:
            raise TrainingError(
                f"a training file holds arrays of shape {array.shape}, "
                f"the plan says {planned} in one row group",
                where=file.url,
                do=_DAMAGED,
            )
    return channels.pack(dict(zip(columns, arrays, strict=False)), context)
