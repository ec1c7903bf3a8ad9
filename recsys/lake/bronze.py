"""Raw files to bronze: every record as it came, with the file and the line it came from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from urllib.parse import unquote

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import InputError
from recsys.lake.files import RawFile
from recsys.lake.formats import LogFormat
from recsys.lake.tables import Commit, Lake

_URL, _SPLIT, _AT, _SHIFT = "_url", "_split", "_at", "_shift"


def ingest_files(lake: Lake, log: LogFormat, files: Sequence[RawFile], run_date: date) -> Commit:
    """Write the night's records to bronze/events in one commit, replacing an earlier try.

    Raises:
        InputError: a file is corrupt or all are empty.
    """
    records = read_records(lake.spark, log, files).withColumn(schemas.INGEST_DATE, F.lit(run_date))
    where = f"{schemas.INGEST_DATE} = '{run_date}'"
    return lake.replace(schemas.BRONZE_EVENTS, records, where)


def read_records(spark: SparkSession, log: LogFormat, files: Sequence[RawFile]) -> DataFrame:
    """One row a record: source_file, source_offset (from 1, a csv header included), raw.

    Raises:
        InputError: a file is corrupt or all are empty.
    """
    urls = [file.url for file in files]
    metadata = F.col("_metadata.file_path").alias(_URL)
    try:
        if log.kind == "parquet":
            rows = spark.read.parquet(*urls)
            raw = F.to_json(F.struct(*rows.columns)).alias(schemas.RAW)
            offset = F.col("_metadata.row_index").alias(_AT)
            return _name(spark, rows.select(raw, metadata, F.lit(0).alias(_SPLIT), offset), files)
        lines = spark.read.text(urls).select(
            F.col("value").alias(schemas.RAW),
            metadata,
            F.col("_metadata.file_block_start").alias(_SPLIT),
            F.monotonically_increasing_id().alias(_AT),
        )
        return _number_lines(spark, lines, files)
    except InputError:
        raise
    except Exception as error:
        raise explain_read(error, files) from error


def _number_lines(spark: SparkSession, lines: DataFrame, files: Sequence[RawFile]) -> DataFrame:
    """Turn Spark's row ids, which count within a task, into line numbers within a file.

    Spark cuts big files into splits. The first pass (no column is kept) learns where the ids of
    each split begin and how many lines came before it in its file; the second shifts them.
    """
    splits = (
        lines.groupBy(_URL, _SPLIT)
        .agg(F.min(_AT).alias(_AT), F.count(F.lit(1)).alias("rows"))
        .orderBy(_URL, _SPLIT)
        .collect()
    )
    if not splits:
        raise InputError(
            "the log has no record at all",
            where=", ".join(file.url for file in files[:3]),
            do="check what writes the log; nothing was changed",
        )
    before: dict[str, int] = defaultdict(int)
    shifts = []
    for url, split, first, rows in splits:
        shifts.append((url, split, before[url] - first))
        before[url] += rows
    return _name(spark, lines, files, shifts)


def _name(
    spark: SparkSession,
    rows: DataFrame,
    files: Sequence[RawFile],
    shifts: list[tuple[str, int, int]] | None = None,
) -> DataFrame:
    names = {_plain(file.url): file.name for file in files}
    if shifts is None:
        shifts = [(r[0], 0, 0) for r in rows.select(_URL).distinct().collect()]
    table = spark.createDataFrame(
        [(url, split, shift, names[_plain(url)]) for url, split, shift in shifts],
        f"{_URL} string, {_SPLIT} bigint, {_SHIFT} bigint, {schemas.SOURCE_FILE} string",
    )
    return rows.join(F.broadcast(table), [_URL, _SPLIT]).select(
        schemas.SOURCE_FILE,
        (F.col(_AT) + F.col(_SHIFT) + 1).alias(schemas.SOURCE_OFFSET),
        schemas.RAW,
    )


def _plain(url: str) -> str:
    """Spark and Hadoop write the same path with other slashes and escapes."""
    return unquote(url.partition(":")[2]).lstrip("/")


def explain_read(error: Exception, files: Sequence[RawFile]) -> InputError | Exception:
    """What a failed read of raw files means for the person who sent them."""
    text = str(error) + str(error.__cause__ or "")
    for sign, what in (
        ("not in gzip format", "a file is not what its name says: not gzip"),
        ("incorrect header check", "a file is not what its name says: not gzip"),
        ("Unexpected end of input stream", "a gzip file is cut off"),
        ("EOFException", "a compressed file is cut off"),
        ("is not a Parquet file", "a file is not Parquet"),
        ("FAILED_READ_FILE", "a file can't be read"),
        ("Permission denied", "no permission to read a file"),
    ):
        if sign in text:
            near = [file.url for file in files if file.url.rsplit("/", 1)[-1] in text]
            return InputError(
                what,
                where=near[0] if near else f"one of {len(files)} files: {files[0].url}, …",
                do="replace or remove the file and run the night again; nothing was changed",
            )
    return error


def count_records(lake: Lake, log: LogFormat, run_date: date) -> int:
    """Records read by the night, without csv headers."""
    night = lake.read(schemas.BRONZE_EVENTS).where(F.col(schemas.INGEST_DATE) == F.lit(run_date))
    return drop_headers(night, log).count()


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
    columns = [[name.strip().strip('"') for name in h[0].split(log.delimiter)] for h in headers]
    for names, (_, file) in zip(columns, headers, strict=True):
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
