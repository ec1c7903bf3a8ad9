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
from recsys.lake.local import local_frame
from recsys.schemas import Table

Result = TypeVar("Result")


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
        return self.version(table) >= 0

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

    def version(self, table: Table) -> int:
        """Newest version of the table, -1 if it was never written.

        Raises:
            LakeError: the Delta log cannot be read.
        """
        jvm = self.spark.sparkContext._jvm
        none = jvm.scala.Option.empty()  # type: ignore[union-attr]
        try:
            # Delta's history() runs a Spark job for this; its log knows at once.
            log = jvm.org.apache.spark.sql.delta.DeltaLog.forTable(  # type: ignore[union-attr]
                self.spark._jsparkSession, self.path(table)
            )
            return int(log.update(False, none, none).version())
        except Exception as error:
            raise self._unreadable(table, error) from error

    def replace(
        self,
        table: Table,
        rows: DataFrame,
        where: str | None = None,
        options: Mapping[str, str] | None = None,
    ) -> Commit:
        """Replace the whole table, or the rows that match ``where``, in one commit."""
        writer = self._writer(table, rows).mode("overwrite").options(**(options or {}))
        if self.exists(table) and where:
            writer = writer.option("replaceWhere", where)
        return self._save(table, writer)

    def append(self, table: Table, rows: DataFrame) -> Commit:
        """Add rows in one commit; the caller knows that their keys are new."""
        return self._save(table, self._writer(table, rows).mode("append"))

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

        with ThreadPoolExecutor(len(writes)) as pool:
            futures = [pool.submit(run, number, write) for number, write in enumerate(writes)]
        return [future.result() for future in futures]

    def _writer(self, table: Table, rows: DataFrame) -> DataFrameWriter:
        """The rows with the table's columns; what else makes the table where it is not there."""
        shaped = rows.select(*[F.col(c.name).cast(c.type) for c in table.columns])
        writer = shaped.write.format("delta")
        if self.exists(table):
            return writer
        statistics = {"delta.dataSkippingNumIndexedCols": "0"}
        if table.filtered_by:
            statistics = {"delta.dataSkippingStatsColumns": ",".join(table.filtered_by)}
        return writer.options(**statistics).partitionBy(*table.partition_by)

    def _save(self, table: Table, writer: DataFrameWriter) -> Commit:
        before = self.version(table)
        mark = uuid.uuid4().hex
        try:
            writer.option("userMetadata", mark).save(self.path(table))
        except Exception as error:
            raise explain_write(table.name, self.path(table), error) from error
        newest = self.version(table)
        # Others may have written since; and Delta leaves out a commit that would change nothing.
        for version in range(newest, before, -1):
            info = self._commit_info(table, version)
            if info.get("userMetadata") == mark:
                metrics = info.get("operationMetrics", {})
                # Of a file with rows of other nights (compaction makes such) these are copied.
                copied = int(metrics.get("numCopiedRows", 0))
                return Commit(version, int(metrics.get("numOutputRows", 0)) - copied)
        return Commit(newest, 0)

    def _commit_info(self, table: Table, version: int) -> dict[str, Any]:
        """What Delta's log says about a commit: who, how, how many rows."""
        jvm = self.spark.sparkContext._jvm
        path = jvm.org.apache.hadoop.fs.Path(f"{self.path(table)}/_delta_log/{version:020d}.json")  # type: ignore[union-attr]
        stream = path.getFileSystem(self.spark.sparkContext._jsc.hadoopConfiguration()).open(path)
        try:
            lines = str(jvm.org.apache.commons.io.IOUtils.toString(stream, "UTF-8"))  # type: ignore[union-attr]
        finally:
            stream.close()
        actions = (json.loads(line) for line in lines.splitlines())
        found: dict[str, Any] = next(a["commitInfo"] for a in actions if "commitInfo" in a)
        return found

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


def explain_write(name: str, path: str, error: Exception) -> LakeError:
    """Turn what Spark says of a failed write into something to act on."""
    text = all_text(error)
    if "No space left on device" in text:
        return LakeError(
            f"the disk is full: table {name} was not written, what was there before is intact",
            where=path,
            do="free some space and run the same command again",
        )
    signs = ("Permission denied", "AccessDenied", "Mkdirs failed", "DELTA_CANNOT_CREATE_LOG_PATH")
    if any(sign in text for sign in signs):
        return LakeError(
            f"no permission to write table {name}",
            where=path,
            do="give the user that runs the job write access, or set lake.root elsewhere",
        )
    return LakeError(f"table {name} could not be written: {first_line(error)}", where=path)


def all_text(error: BaseException | None) -> str:
    """All that an error and its causes say, Java's ones too, to look for signs in."""
    texts = []
    while error is not None:
        texts += [str(error), str(getattr(error, "_stackTrace", None) or "")]
        error = error.__cause__ or getattr(error, "_cause", None)
    return "\n".join(texts)
