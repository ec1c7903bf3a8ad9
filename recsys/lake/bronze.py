"""Raw files to bronze: every record as it came, with the file and the line it came from."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import ConflictError, InputError, LakeError
from recsys.java import java_class
from recsys.lake.faults import all_text
from recsys.lake.files import RawFile
from recsys.lake.formats import LogFormat
from recsys.lake.local import local_frame
from recsys.lake.tables import Commit, Lake

_URL, _SPLIT, _AT, _BEFORE = "_url", "_split", "_at", "_before"
_PACKING = "spark.sql.files.openCostInBytes"
_ALL_MICROS = {
    "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX",
    "timestampNTZFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSS",
}
"""Of a Parquet row's JSON: Spark's own formats stop at milliseconds."""
_TASKS_A_CORE = 2
_ROW_BITS = (1 << 33) - 1
"""Of monotonically_increasing_id: the row within its task, below the task's number."""
_UNCUT = (".gz", ".deflate", ".snappy", ".zst", ".lz4")
"""Compressed files that Spark reads from the start only, whatever their size."""


def ingest_files(lake: Lake, log: LogFormat, files: Sequence[RawFile], run_date: date) -> Commit:
    """Write the night's records to bronze/events in one commit, replacing an earlier try.

    Raises:
        InputError: a file is corrupt or all are empty.
    """
    where = f"{schemas.INGEST_DATE} = '{run_date}'"
    with one_task_a_split(lake.spark):
        records = read_records(lake.spark, log, files).coalesce(_count_tasks(lake.spark, files))
        dated = records.withColumn(schemas.INGEST_DATE, F.lit(run_date))
        try:
            commit = lake.replace(schemas.BRONZE_EVENTS, dated, where)
        except ConflictError:
            raise
        except LakeError as error:
            raise explain_read(error, files) from error
    if not commit.rows:
        raise InputError(
            "the log has no record at all",
            where=", ".join(file.url for file in files[:3]),
            do="check what writes the log",
        )
    return commit


@contextmanager
def one_task_a_split(spark: SparkSession) -> Iterator[None]:
    """Inside, a task reads one split of one file, so a row's place in its task is known.

    Spark otherwise packs small files together; the cost of opening one is what it packs by.
    """
    before = str(spark.conf.get(_PACKING))
    spark.conf.set(_PACKING, _split_bytes(spark))
    try:
        yield
    finally:
        spark.conf.set(_PACKING, before)


def _count_tasks(spark: SparkSession, files: Sequence[RawFile]) -> int:
    """Tasks that write the records, and so files of bronze: few where the log's files are small.

    Rows are numbered before the splits of several files are put into one task.
    """
    size = sum(file.size for file in files)
    return max(_TASKS_A_CORE * spark.sparkContext.defaultParallelism, size // _split_bytes(spark))


def _split_bytes(spark: SparkSession) -> int:
    text = str(spark.conf.get("spark.sql.files.maxPartitionBytes"))  # 134217728b, 128m, …
    utils = java_class(spark, "org.apache.spark.network.util.JavaUtils")
    return int(utils.byteStringAsBytes(text))


def read_records(spark: SparkSession, log: LogFormat, files: Sequence[RawFile]) -> DataFrame:
    """One row a record: source_file, source_offset (from 1, a csv header included), raw.

    To be used, and its rows read, inside ``one_task_a_split``.

    Raises:
        InputError: a file is corrupt.
    """
    urls = [file.url for file in files]
    metadata = F.col("_metadata.file_path").alias(_URL)
    try:
        if log.kind == "parquet":
            rows = merged_parquet(spark, files)
            raw = F.to_json(F.struct("*"), _ALL_MICROS).alias(schemas.RAW)
            offset = F.col("_metadata.row_index").alias(_AT)
            numbered = rows.select(raw, metadata, F.lit(0).alias(_SPLIT), offset)
            return _name(spark, numbered, [(file, 0, 0) for file in files])
        lines = spark.read.text(urls).select(
            F.col("value").alias(schemas.RAW),
            metadata,
            F.col("_metadata.file_block_start").alias(_SPLIT),
            F.monotonically_increasing_id().bitwiseAND(_ROW_BITS).alias(_AT),
        )
        return _name(spark, lines, _count_lines_before(spark, lines, files))
    except Exception as error:
        raise explain_read(error, files) from error


def merged_parquet(spark: SparkSession, files: Sequence[RawFile]) -> DataFrame:
    """Rows with the columns of all files, not of the first alone: a new one must not be lost."""
    urls = [file.url for file in files]
    return spark.read.option("mergeSchema", len(urls) > 1).parquet(*urls)


def _count_lines_before(
    spark: SparkSession, lines: DataFrame, files: Sequence[RawFile]
) -> list[tuple[RawFile, int, int]]:
    """For each split of each file: where it starts (bytes), how many lines lie before it.

    Only files that Spark cuts are read for it: the one pass counts, no column is kept.
    """
    size = _split_bytes(spark)
    cut = {f.encoded: f for f in files if f.size > size and not f.name.endswith(_UNCUT)}
    found = [(file, 0, 0) for file in files if file.encoded not in cut]
    if not cut:
        return found
    splits = (
        lines.where(F.col(_URL).isin(list(cut)))
        .groupBy(_URL, _SPLIT)
        .count()
        .orderBy(_URL, _SPLIT)
        .collect()
    )
    before: dict[str, int] = defaultdict(int)
    for url, split, rows in splits:
        found.append((cut[url], split, before[url]))
        before[url] += rows
    return found


def _name(
    spark: SparkSession, rows: DataFrame, splits: Sequence[tuple[RawFile, int, int]]
) -> DataFrame:
    table = local_frame(
        spark,
        [(file.encoded, split, before, file.name) for file, split, before in splits],
        f"{_URL} string, {_SPLIT} bigint, {_BEFORE} bigint, {schemas.SOURCE_FILE} string",
    )
    # A row of a split nobody listed must not vanish: the file was replaced while it was read.
    unknown = F.raise_error(F.concat(F.lit("file changed while it was read: "), F.col(_URL)))
    return rows.join(F.broadcast(table), [_URL, _SPLIT], "left").select(
        F.coalesce(F.col(schemas.SOURCE_FILE), unknown.cast("string")).alias(schemas.SOURCE_FILE),
        (F.col(_AT) + F.col(_BEFORE) + 1).alias(schemas.SOURCE_OFFSET),
        schemas.RAW,
    )


def explain_read(error: Exception, files: Sequence[RawFile]) -> InputError | Exception:
    """What a failed read of raw files means for the person who sent them."""
    text = all_text(error)
    if isinstance(error, LakeError) and "FAILED_READ_FILE" not in text:
        return error  # reading went well: it is the table that could not be written
    for sign, what in (
        ("not a gzip file", "a file is not what its name says: not gzip"),
        ("not in gzip format", "a file is not what its name says: not gzip"),
        ("incorrect header check", "a file is not what its name says: not gzip"),
        ("Unexpected end of input stream", "a gzip file is cut off"),
        ("EOFException", "a compressed file is cut off"),
        ("is not a Parquet file", "a file is not Parquet"),
        ("Permission denied", "no permission to read a file"),
        ("CANNOT_MERGE_SCHEMAS", "files of one night differ in the type of a column"),
        ("PATH_NOT_FOUND", "a file is missing"),
        ("FileNotFoundException", "a file is missing"),
        ("file changed while it was read", "a file changed while it was read"),
        ("FAILED_READ_FILE", "a file can't be read"),
    ):
        if sign in text:
            near = [
                file.url
                for file in files
                if any(f"{path}{end}" in text for path in _paths(file) for end in ". :\n\"'")
            ]
            return InputError(
                what,
                where=near[0] if near else f"one of {len(files)} files: {files[0].url}, …",
                do="replace or remove the file and run the night again; nothing was changed",
            )
    return error


def _paths(file: RawFile) -> tuple[str, str]:
    """What an error may call the file: the path behind the scheme, plain or encoded."""
    return file.url.partition(":")[2].lstrip("/"), file.encoded.partition(":")[2].lstrip("/")


def split_header(line: str, delimiter: str) -> list[str]:
    line = line.removeprefix("\ufeff")
    if len(delimiter) > 1:
        return [name.strip() for name in line.split(delimiter)]
    return [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]


def drop_headers(records: DataFrame, log: LogFormat) -> DataFrame:
    """Records without the lines that name a csv's columns."""
    has_header = log.kind == "csv" and log.header
    return records.where(F.col(schemas.SOURCE_OFFSET) > 1) if has_header else records


def read_header(records: DataFrame, log: LogFormat) -> list[str] | None:
    """Column names of a csv log with header; ``None`` for other logs.

    Raises:
        InputError: files of one night differ in their columns, or a column is missing.
    """
    if log.kind != "csv" or not log.header:
        return None
    headers = (
        records.where(F.col(schemas.SOURCE_OFFSET) == 1)
        .groupBy(schemas.RAW)
        .agg(F.min(schemas.SOURCE_FILE))
        .orderBy(F.col("min(source_file)"))
        .collect()
    )
    columns = [split_header(line, log.delimiter) for line, _ in headers]
    for names, (_, file) in zip(columns, headers, strict=True):
        if twice := [str(at) for at in log.columns.values() if names.count(str(at)) > 1]:
            raise InputError(
                f"wrong columns: {twice[0]} is twice in the header",
                where=f"{file}:1 has {', '.join(names)}",
                do="correct what writes the log, or `columns` in the log's format",
            )
        if missing := [str(at) for at in log.columns.values() if at not in names]:
            raise InputError(
                f"wrong columns: {', '.join(missing)} is not in the header",
                where=f"{file}:1 has {', '.join(names)}",
                do="correct `columns`, `delimiter` or `header` in the log's format",
            )
    if len(columns) > 1:
        raise InputError(
            "files of one night differ in their columns",
            where=f"{headers[0][1]} has {', '.join(columns[0])}; "
            f"{headers[1][1]} has {', '.join(columns[1])}",
            do="ingest them with formats of their own, or bring them to one",
        )
    return columns[0]
