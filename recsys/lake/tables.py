"""Reading and writing the lake's tables: one thin layer over Delta, by path."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, DataFrameWriter, SparkSession
from pyspark.sql import functions as F

from recsys import schemas
from recsys.config import Settings
from recsys.errors import LakeError, RecsysError, first_line
from recsys.java import delta_log, file_system, hadoop_path, newest_snapshot
from recsys.lake.commits import mark_of, read_commit
from recsys.lake.faults import conflict, explain_write
from recsys.lake.local import local_frame
from recsys.schemas import Table

Result = TypeVar("Result")

WRITER = "recsys"
"""Of the transaction numbers by which writes are compared and swapped."""


@dataclass(frozen=True)
class Commit:
    """What a write left behind: the table's new version and the rows written."""

    version: int
    rows: int


class Lake:
    """The tables under ``lake.root``."""

    def __init__(self, spark: SparkSession, settings: Settings) -> None:
        self.spark = spark
        self.settings = settings
        self._written: set[str] = set()

    def path(self, table: Table) -> str:
        """Where the table lies."""
        vault = self.settings.lake.vault_root
        if table is schemas.SILVER_USER_VAULT and vault:
            return vault
        return f"{self.settings.lake.root.rstrip('/')}/{table.name}"

    def exists(self, table: Table) -> bool:
        """Whether the table was ever written.

        Raises:
            LakeError: the table's folder is there, but its Delta log cannot be read.
        """
        # No table is ever taken away, so its log (a listing of a folder) is asked for once.
        if table.name not in self._written and self.version(table) >= 0:
            self._written.add(table.name)
        return table.name in self._written

    def read(self, table: Table, version: int | None = None) -> DataFrame:
        """The table's rows at ``version`` (``None``: the newest); empty if it was never written.

        Raises:
            LakeError: the Delta log or the wanted version cannot be read.
        """
        if not self.exists(table):
            return local_frame(self.spark, [], table.ddl)
        reader = self.spark.read.format("delta")
        if version is not None:
            reader = reader.option("versionAsOf", version)
        try:
            return reader.load(self.path(table))
        except Exception as error:
            raise self._unreadable(table, error) from error

    def size(self, table: Table, version: int) -> int:
        """Bytes of the files of a version, as its log has them."""
        plan = self.read(table, version)._jdf.queryExecution().optimizedPlan()
        return int(str(plan.stats().sizeInBytes()))

    def version(self, table: Table) -> int:
        """Newest version of the table, -1 if it was never written.

        Raises:
            LakeError: the Delta log cannot be read.
        """
        try:
            log = delta_log(self.spark, self.path(table))
            return int(newest_snapshot(self.spark, log).version())
        except Exception as error:
            raise self._unreadable(table, error) from error

    def replace(
        self,
        table: Table,
        rows: DataFrame,
        where: str | None = None,
        options: Mapping[str, str] | None = None,
        mark: Mapping[str, str] | None = None,
        after: int | None = None,
    ) -> Commit:
        """Replace the whole table, or the rows that match ``where``, in one commit.

        Args:
            mark: what the table's log is to remember of the commit (``commits.NIGHT``, ``BASE``).
            after: the version that ``rows`` were made from; nothing is written after another one.

        Raises:
            ConflictError: another run has written meanwhile.
            LakeError: the write failed; the table is as it was.
        """
        writer = self._writer(table, rows).mode("overwrite").options(**(options or {}))
        if self.exists(table) and where:
            writer = writer.option("replaceWhere", where)
        return self._save(table, writer, mark, after)

    def append(
        self,
        table: Table,
        rows: DataFrame,
        mark: Mapping[str, str] | None = None,
        after: int | None = None,
    ) -> Commit:
        """Add rows in one commit; the caller knows that their keys are new.

        Args:
            mark: as for ``replace``.
            after: the version that the caller knows it from.

        Raises:
            ConflictError: another run has written meanwhile.
            LakeError: the write failed; the table is as it was.
        """
        return self._save(table, self._writer(table, rows).mode("append"), mark, after)

    def reshape(self, table: Table) -> None:
        """Empty a table of an older version and give it this version's columns and partitions.

        What it held stays readable by version.
        """
        empty = local_frame(self.spark, [], table.ddl).write.format("delta").mode("overwrite")
        writer = empty.option("overwriteSchema", "true").options(**_statistics(table))
        self._save(table, writer.partitionBy(*table.partition_by), None, None)

    def delta(self, table: Table) -> DeltaTable:
        """Delta's own handle, for MERGE and history."""
        return DeltaTable.forPath(self.spark, self.path(table))

    def in_parallel(self, *writes: Callable[[], Result]) -> list[Result]:
        """Run independent writes at the same time: a commit mostly waits, and a core idles else.

        Each is a scheduler pool of its own, so that small ones don't queue behind a large one.

        Raises:
            Exception: the first error, after all have ended.
        """
        context = self.spark.sparkContext

        def run(number: int, write: Callable[[], Result]) -> Result:
            context.setLocalProperty("spark.scheduler.pool", f"parallel-{number}")
            return write()

        with ThreadPoolExecutor(max(1, len(writes))) as pool:
            futures = [pool.submit(run, number, write) for number, write in enumerate(writes)]
        return [future.result() for future in futures]

    def _writer(self, table: Table, rows: DataFrame) -> DataFrameWriter:
        """The rows with the table's columns; what else makes the table where it is not there."""
        shaped = rows.select(*[F.col(c.name).cast(c.type) for c in table.columns])
        writer = shaped.write.format("delta")
        if table.compression is not None:
            writer = writer.option("compression", table.compression)
        if self.exists(table):
            return writer
        return writer.options(**_statistics(table)).partitionBy(*table.partition_by)

    def _save(
        self,
        table: Table,
        writer: DataFrameWriter,
        mark: Mapping[str, str] | None,
        after: int | None,
    ) -> Commit:
        before = self.version(table) if after is None else after
        mark = {"id": uuid.uuid4().hex, **(mark or {})}
        if after is not None:
            # Delta skips a transaction whose number an earlier one of this name has reached, and
            # refuses two of this name at the same time: so it is compared and swapped.
            writer = writer.options(txnAppId=WRITER, txnVersion=str(after + 1))
        try:
            writer.option("userMetadata", json.dumps(mark)).save(self.path(table))
        except Exception as error:
            raise explain_write(table.name, self.path(table), error) from error
        newest = self.version(table)
        # Others may have written since; and Delta leaves out a commit that would change nothing.
        for version in range(newest, before, -1):
            info = self.commit(table, version)
            if mark_of(info) == mark:
                metrics = info.get("operationMetrics", {})
                # Of a file with rows of other nights (compaction makes such) these are copied.
                copied = int(metrics.get("numCopiedRows", 0))
                return Commit(version, int(metrics.get("numOutputRows", 0)) - copied)
        if after is not None and newest > after:
            raise conflict(table.name, self.path(table))
        return Commit(newest, 0)

    def changed_rows(self, table: Table, after: int) -> int:
        """Rows that the commits after a version have deleted or updated."""
        names = ("numTargetRowsDeleted", "numTargetRowsUpdated")
        commits = range(after + 1, self.version(table) + 1)
        metrics = [self.commit(table, v).get("operationMetrics", {}) for v in commits]
        return sum(int(found.get(name, 0)) for found in metrics for name in names)

    def commit(self, table: Table, version: int) -> dict[str, Any]:
        """What Delta's log says about a commit (see ``lake/commits.py``).

        Raises:
            Exception: the log has no such entry any more.
        """
        return read_commit(self.spark, self.path(table), version)

    def can_read(self, table: Table, version: int) -> bool:
        """Whether a version is still there with all its files."""
        try:
            files = self.spark.read.format("delta").option("versionAsOf", version)
            names = files.load(self.path(table)).inputFiles()
        except Exception:
            return False
        system = file_system(self.spark, hadoop_path(self.spark, self.path(table)))
        return all(system.exists(hadoop_path(self.spark, name)) for name in names)

    @contextmanager
    def explain_damage(self) -> Iterator[None]:
        """Inside, a damaged file of a table is reported as such: Spark finds it late, in a job.

        Raises:
            LakeError: a file of the lake cannot be read; it names table and file.
        """
        try:
            yield
        except RecsysError:
            raise
        except Exception as error:
            text = first_line(error)
            for table in schemas.TABLES:
                place = self.path(table).partition("://")[2] or self.path(table)
                if "FAILED_READ_FILE" in text and f"{place.removeprefix('.')}/" in text:
                    raise self._unreadable(table, error) from error
            raise

    def _unreadable(self, table: Table, error: Exception) -> LakeError:
        return LakeError(
            f"table {table.name} can't be read: {first_line(error)}",
            where=self.path(table),
            do="restore the file that the message names from a backup (files of _delta_log are "
            "named by version), or go back to an older version of the table",
        )


def _statistics(table: Table) -> dict[str, str]:
    """Which columns Delta keeps the smallest and largest values of."""
    if table.filtered_by:
        return {"delta.dataSkippingStatsColumns": ",".join(table.filtered_by)}
    return {"delta.dataSkippingNumIndexedCols": "0"}
