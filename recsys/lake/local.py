"""Small facts of the driver as a DataFrame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType


def local_frame(spark: SparkSession, rows: Sequence[Sequence[Any]], ddl: str) -> DataFrame:
    """The rows as a local relation: no job, no Python worker, and no value shown in a plan.

    ``createDataFrame`` of a list would make an RDD of pickled rows, which Python workers unpack
    again each time it is used.

    Args:
        rows: one sequence a row, in the order of ``ddl``; a dict for a map.
    """
    fields = StructType.fromDDL(ddl)
    assert isinstance(fields, StructType)
    schema = to_arrow_schema(fields, timestamp_utc=True)
    columns = [
        pa.array([_plain(row[at]) for row in rows], type=field.type)
        for at, field in enumerate(schema)
    ]
    return spark.createDataFrame(pa.Table.from_arrays(columns, schema=schema))


def _plain(value: Any) -> Any:
    return list(value.items()) if isinstance(value, Mapping) else value
