"""The Spark session of a job: one place that knows Delta's settings."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pyspark.sql import SparkSession

from recsys.config import Settings, conf_dir
from recsys.errors import LakeError

_DELTA = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    # Delta reads a table's log with as many tasks; fifty, its default, suits millions of files.
    "spark.databricks.delta.snapshotPartitions": "1",
    # One commit replaces the open training windows and adds final ones (lake/gold.py).
    "spark.databricks.delta.replaceWhere.constraintCheck.enabled": "false",
}
_ALWAYS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.ui.showConsoleProgress": "false",
    # A night has more queries than Spark keeps compiled by default, so it would compile them again.
    "spark.sql.codegen.cache.maxEntries": "2000",
    # A step reads what it caches two or three times: that never pays for compressing it.
    "spark.sql.inMemoryColumnarStorage.compressed": "false",
    # A task that writes so few partitions keeps a file of each open; else it sorts its rows first.
    "spark.sql.maxConcurrentOutputFileWriters": "4",
    # Else PySpark looks its own caller up at each use of a column, for messages that no user sees.
    "spark.python.sql.dataFrameDebugging.enabled": "false",
    # Hardly two are the same: Parquet would number the values first, see that, and start again.
    "spark.hadoop.parquet.enable.dictionary#event_id": "false",
    "spark.hadoop.parquet.enable.dictionary#raw": "false",
    "spark.hadoop.parquet.enable.dictionary#recommendations.list.element.score": "false",
    # To number a catalogue's ids took a third of the time of writing lists.
    "spark.hadoop.parquet.enable.dictionary#recommendations.list.element.item_id": "false",
    # Queries that run at the same time share the cores (Lake.in_parallel).
    "spark.scheduler.mode": "FAIR",
    # Statistics of every column are collected in the lake by Delta; no Hive metastore is used.
    "spark.sql.catalogImplementation": "in-memory",
}


def build_session(settings: Settings, name: str, python_daemon: str | None = None) -> SparkSession:
    """Start (or join) the Spark session with Delta enabled.

    Args:
        python_daemon: module by which executors fork their Python workers, which they must be able
            to import; None: Spark's own.

    Raises:
        LakeError: Java is missing, the master cannot be reached, or Delta's jars are missing.
    """
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    builder = SparkSession.builder.appName(name)
    if settings.spark.master:
        builder = builder.master(settings.spark.master)
        if settings.spark.master.startswith("local"):
            # One machine: no service of this session needs to be reachable from another one.
            builder = builder.config("spark.driver.host", "127.0.0.1")
            builder = builder.config("spark.driver.bindAddress", "127.0.0.1")
            builder = builder.config("spark.ui.enabled", "false")
            # Spark describes each plan, and each change of it, for the pages that are off here.
            builder = builder.config("spark.sql.ui.explainMode", "simple")
    log4j = conf_dir() / "log4j2.properties"
    options = {
        **_DELTA,
        **_ALWAYS,
        "spark.driver.memory": settings.spark.driver_memory,
        "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={log4j.as_uri()} "
        f"{_share_classes()}{settings.spark.java_options}",
        "spark.sql.shuffle.partitions": str(settings.spark.shuffle_partitions),
        **({"spark.python.daemon.module": python_daemon} if python_daemon else {}),
        **_s3(settings),
        **settings.spark.extra,
    }
    for key, value in options.items():
        builder = builder.config(key, value)
    try:
        session = builder.getOrCreate()
        session.sparkContext.setLogLevel("ERROR")
        _check_delta(session)
    except LakeError:
        raise
    except Exception as error:
        raise LakeError(
            f"Spark did not start: {str(error).splitlines()[0]}",
            where=f"master {settings.spark.master or 'of spark-submit'}",
            do="check that `java -version` says 17 or 21 and that the master is reachable",
        ) from error
    return session


def _s3(settings: Settings) -> dict[str, str]:
    """Where s3a:// paths lead; credentials come from the environment, never from settings."""
    options = {}
    if settings.lake.s3_endpoint:
        options["spark.hadoop.fs.s3a.endpoint"] = settings.lake.s3_endpoint
        # Stores other than Amazon's seldom have a host name for each bucket.
        options["spark.hadoop.fs.s3a.path.style.access"] = "true"
    if settings.lake.s3_region:
        options["spark.hadoop.fs.s3a.endpoint.region"] = settings.lake.s3_region
    return options


def _share_classes() -> str:
    """Flags with the archive of Spark's classes that the set-up made; none where there is none.

    Java leaves an archive alone that does not fit (another Java, other jars).
    """
    archive = Path(sys.prefix) / "share/recsys/classes.jsa"
    return f"-XX:SharedArchiveFile={archive} -Xlog:cds*=off " if archive.exists() else ""


def _check_delta(session: SparkSession) -> None:
    loader = session.sparkContext._jvm.Thread.currentThread().getContextClassLoader()  # type: ignore[union-attr]
    try:
        loader.loadClass("io.delta.sql.DeltaSparkSessionExtension")
    except Exception:
        jars = Path(os.environ.get("SPARK_HOME", "")) / "jars"
        raise LakeError(
            "Delta's jars are not on Spark's class path",
            where=str(jars),
            do="run `make setup`, or submit with --packages io.delta:delta-spark_2.13:4.0.1",
        ) from None
