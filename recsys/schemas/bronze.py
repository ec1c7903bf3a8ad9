"""Raw records as they came, and those that could not become an event."""

from __future__ import annotations

from recsys.schemas.names import (
    INGEST_DATE,
    RAW,
    REASON,
    SOURCE_FILE,
    SOURCE_OFFSET,
)
from recsys.schemas.table import Column, Table

_SOURCE = (
    Column(SOURCE_FILE, "string", "raw file, relative to the input path"),
    Column(SOURCE_OFFSET, "bigint", "record's number within the file, from 1 (text: the line)"),
    Column(RAW, "string", "the record as it came; a Parquet row as JSON"),
)
INGESTED = Column(INGEST_DATE, "date", "run date of the night that read the record")

BRONZE_EVENTS = Table(
    "bronze/events",
    "one raw record as it came",
    (*_SOURCE, INGESTED),
    key=(SOURCE_FILE, SOURCE_OFFSET),
    partition_by=(INGEST_DATE,),
    retention_days=30,  # raw user ids; a night is run again from the logs or from these
)
BRONZE_REJECTS = Table(
    "bronze/rejects",
    "one record that could not become an event",
    (*_SOURCE, Column(REASON, "string", "why it was rejected"), INGESTED),
    key=(SOURCE_FILE, SOURCE_OFFSET),
    partition_by=(INGEST_DATE,),
    retention_days=30,
)
