"""Which files training reads: those of one version of a table of windows."""

from __future__ import annotations

from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import LakeError
from recsys.lake.tables import Lake
from recsys.schemas import DataFile, PinnedTable, Table


def pin_training_table(
    lake: Lake, version: int | None = None, table: Table = schemas.GOLD_TRAINING_SEQUENCES
) -> PinnedTable:
    """The files of one version of a table, in an order set by their content.

    Args:
        version: None takes the newest.
        table: gold/training_sequences, or gold/training_examples.

    Raises:
        LakeError: the table is empty or missing.
    """
    pinned = lake.version(table) if version is None else version
    if pinned < 0:
        raise LakeError(
            f"table {table.name} is missing", where=lake.path(table), do="run build_gold first"
        )
    files = (
        lake.read(table, pinned)
        .groupBy(F.input_file_name().alias("url"), schemas.SPLIT, schemas.BUCKET)
        .agg(
            F.count(F.lit(1)).alias("rows"),
            F.min(F.struct(schemas.USER_IDX, schemas.WINDOW)).alias("first"),
        )
        .orderBy(schemas.SPLIT, schemas.BUCKET, "first")
        .collect()
    )
    if not files:
        raise LakeError(
            f"table {table.name} has no window to train on",
            where=f"{lake.path(table)} version {pinned}",
            do="a model needs users with at least two events before the hold-out "
            "(gold.holdout_days)",
        )
    found = tuple(DataFile(f["url"], f[schemas.SPLIT], f[schemas.BUCKET], f["rows"]) for f in files)
    return PinnedTable(table.name, pinned, found)
