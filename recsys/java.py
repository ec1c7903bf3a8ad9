"""Java classes behind Spark, by their full names.

``jvm.org.apache…`` would look for each package of the name in every jar, a millisecond each.
"""

from __future__ import annotations

from typing import Any

from pyspark.sql import SparkSession


def java_class(spark: SparkSession, name: str) -> Any:
    """The class with the full name ``name``."""
    return getattr(spark.sparkContext._jvm, name)


def hadoop_path(spark: SparkSession, text: str) -> Any:
    """A path on any file system that Hadoop knows."""
    return java_class(spark, "org.apache.hadoop.fs.Path")(text)


def file_system(spark: SparkSession, path: Any) -> Any:
    """The file system of a :func:`hadoop_path`."""
    return path.getFileSystem(spark.sparkContext._jsc.hadoopConfiguration())


def read_text(spark: SparkSession, stream: Any) -> str:
    """The rest of a Java stream, UTF-8; closes it."""
    try:
        return str(java_class(spark, "org.apache.commons.io.IOUtils").toString(stream, "UTF-8"))
    finally:
        stream.close()


def delta_log(spark: SparkSession, path: str) -> Any:
    """Delta's log of the table in the folder ``path``."""
    log = java_class(spark, "org.apache.spark.sql.delta.DeltaLog")
    return log.forTable(spark._jsparkSession, path)


def newest_snapshot(spark: SparkSession, log: Any) -> Any:
    """What a :func:`delta_log` says now; without a Spark job, which Delta's history() runs."""
    none = no_option(spark)
    return log.update(False, none, none)


def no_option(spark: SparkSession) -> Any:
    """Scala's None."""
    return java_class(spark, "scala.Option").empty()
