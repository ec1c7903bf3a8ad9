"""How gold/training_examples lies in files, whatever its examples are."""

from __future__ import annotations

from pyspark import StorageLevel
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.lake.tables import Commit, Lake
from recsys.schemas import BUCKET, SPLIT, USER_IDX, WINDOW

_FILES_A_TASK = 8


def write_files(lake: Lake, examples: DataFrame, most_rows: int) -> Commit:
    """Replace gold/training_examples; each file is one row group of one split and bucket.

    Files are the unit that ranks share out, so there are at least ``gold.min_row_groups`` where the
    rows allow it. Rows are mixed by a hash, so that any file is a sample of all.

    Args:
        examples: columns of the table.
        most_rows: of a file.
    """
    examples = examples.persist(StorageLevel.MEMORY_AND_DISK)
    try:
        rows = examples.count()
        a_file = max(1, min(most_rows, rows // lake.settings.gold.min_row_groups))
        mixed = F.xxhash64(USER_IDX, WINDOW)
        cell = F.pmod(mixed, F.lit(1 + rows // (_FILES_A_TASK * a_file)))
        parts: list[str | Column] = [SPLIT, BUCKET]
        placed = examples.repartition(
            lake.settings.spark.shuffle_partitions, *parts, cell
        ).sortWithinPartitions(*parts, mixed, USER_IDX, WINDOW)
        # One block a file: a row group never ends before maxRecordsPerFile does.
        options = {"maxRecordsPerFile": str(a_file), "parquet.block.size": str(1 << 30)}
        return lake.replace(schemas.GOLD_TRAINING_EXAMPLES, placed, options=options)
    finally:
        examples.unpersist()
