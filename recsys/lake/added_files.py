"""Files that workers have written become a part of their table, in one commit."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyspark.sql import DataFrame, Row, SparkSession

from recsys.errors import RecsysError
from recsys.java import delta_log, file_system, hadoop_path, java_class, no_option
from recsys.lake.faults import conflict, explain_write
from recsys.lake.local import local_frame
from recsys.lake.tables import WRITER, Commit, Lake
from recsys.lake.worker_files import SCHEMES
from recsys.schemas import Table

_DELTA = "org.apache.spark.sql.delta"


@dataclass(frozen=True)
class NewFiles:
    """Files of one partition that are written when ``files`` is collected.

    Attributes:
        files: as ``FileFolder.write`` gives them.
        partition: column to value, as text.
    """

    files: DataFrame
    partition: Mapping[str, str]


def find_folder(lake: Lake, table: Table, partition: Mapping[str, str]) -> str | None:
    """The url of a partition's folder; ``None`` where Arrow can't write to its file system."""
    path = hadoop_path(lake.spark, lake.path(table))
    root = str(file_system(lake.spark, path).makeQualified(path).toString())
    names = "/".join(f"{name}={value}" for name, value in partition.items())
    return f"{root}/{names}" if root.partition(":")[0] in SCHEMES else None


def add_files(
    lake: Lake,
    table: Table,
    new: NewFiles,
    *,
    replace: bool,
    mark: Mapping[str, str],
    after: int | None = None,
) -> Commit:
    """Write the files, then add them to the table; the commit is Delta's own transaction.

    Args:
        replace: take away what the partition held.
        mark: what the table's log is to remember of the commit.
        after: as for ``Lake.append``.

    Raises:
        ConflictError: another run has written meanwhile.
        LakeError: a file could not be written; the table is as it was.
    """
    if not lake.exists(table):
        lake.append(table, local_frame(lake.spark, [], table.ddl))
    path = lake.path(table)
    try:
        none = no_option(lake.spark)
        # What it reads is settled before the files are written, as with Spark's own writes.
        transaction = delta_log(lake.spark, path).startTransaction(none, none)
        if after is not None and int(transaction.txnVersion(WRITER)) > after:
            raise conflict(table.name, path)
        files = new.files.collect()
        actions = _actions(lake.spark, transaction, files, new.partition, replace)
        if after is not None:
            now = int(time.time() * 1000)
            swap = {"appId": WRITER, "version": after + 1, "lastUpdated": now}
            actions.append(_action(lake.spark, {"txn": swap}))
        operation = _operation(lake.spark, table, new.partition, replace, mark)
        version = int(transaction.commit(_sequence(lake.spark, actions), operation))
    except RecsysError:
        raise
    except Exception as error:
        raise explain_write(table.name, path, error) from error
    return Commit(version, sum(file.rows for file in files))


def _actions(
    spark: SparkSession,
    transaction: Any,
    files: list[Row],
    partition: Mapping[str, str],
    replace: bool,
) -> list[Any]:
    """Delta's actions; new ones by way of their JSON, which its protocol defines."""
    now = int(time.time() * 1000)
    actions = []
    if replace:
        parser = spark._jsparkSession.sessionState().sqlParser()
        where = _sequence(spark, [parser.parseExpression(_predicate(partition))])
        old = transaction.filterFiles(where, False).iterator()
        while old.hasNext():
            actions.append(old.next().removeWithTimestamp(now, True))
    folder = "/".join(f"{name}={value}" for name, value in partition.items())
    for file in files:
        add = {
            "path": f"{folder}/{file.file}", "partitionValues": dict(partition),
            "size": file.bytes, "modificationTime": now, "dataChange": True, "stats": file.stats,
        }  # fmt: skip
        actions.append(_action(spark, {"add": add}))
    return actions


def _action(spark: SparkSession, content: Mapping[str, Any]) -> Any:
    return java_class(spark, f"{_DELTA}.actions.Action").fromJson(json.dumps(content))


def _predicate(partition: Mapping[str, str]) -> str:
    return " and ".join(f"{name} = '{value}'" for name, value in partition.items())


def _operation(
    spark: SparkSession,
    table: Table,
    partition: Mapping[str, str],
    replace: bool,
    mark: Mapping[str, str],
) -> Any:
    """What the table's history says of the commit."""
    some = java_class(spark, "scala.Option").apply
    mode = java_class(spark, "org.apache.spark.sql.SaveMode")
    return java_class(spark, f"{_DELTA}.DeltaOperations$Write")(
        mode.Overwrite if replace else mode.Append,
        some(_sequence(spark, list(table.partition_by))),
        some(_predicate(partition)) if replace else no_option(spark),
        some(json.dumps({"id": uuid.uuid4().hex, **mark})),
    )


def _sequence(spark: SparkSession, values: list[Any]) -> Any:
    """Scala's immutable Seq."""
    found = java_class(spark, "java.util.ArrayList")()
    for value in values:
        found.add(value)
    converters = java_class(spark, "scala.jdk.javaapi.CollectionConverters")
    return converters.asScala(found).toSeq()
