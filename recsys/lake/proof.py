"""After an erasure: old files go, and what is left is read file by file, for the users' ids."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import LakeError
from recsys.java import (
    delta_log,
    file_system,
    hadoop_path,
    java_class,
    newest_snapshot,
    no_option,
)
from recsys.lake.erasure import (
    ERASED_FROM,
    Say,
    Users,
    point_to_new_versions,
    records_of,
    versions_of,
)
from recsys.lake.formats import LogFormat
from recsys.lake.table_files import as_written, base_path, files_of, list_files, log_files
from recsys.lake.tables import Lake
from recsys.lake.vacuum import plan_vacuum, run_vacuum
from recsys.schemas import Table

_ID_COLUMNS = (schemas.USER_ID, schemas.RAW_USER_ID)


def purge(lake: Lake, say: Say) -> None:
    """Remove every file of the tables that their newest version does not have, and the old log.

    Time travel ends here for these tables: that is what erasing means. Their log is begun anew
    from a checkpoint, since it keeps the smallest and largest ids of files that are gone.
    """
    section = lake.settings.lake.model_copy(update={"vacuum_hours": 0})
    now = datetime.now(UTC) + timedelta(seconds=1)
    short = Lake(lake.spark, lake.settings.model_copy(update={"lake": section}))
    before = versions_of(lake)
    # Of ops/runs and ops/checks the messages; nobody reads their old versions.
    for table in (*ERASED_FROM, schemas.OPS_RUNS, schemas.OPS_CHECKS):
        if not lake.exists(table):
            continue
        freed = run_vacuum(short, plan_vacuum(short, table, {}, now))
        lines = _forget_log(lake, table) if table is schemas.GOLD_TOP_N else 0
        old = f", {lines} log entries" if lines else ""
        say(f"  {table.name:<24} removed {freed.files} old files{old}")
    point_to_new_versions(lake, before)


def _forget_log(lake: Lake, table: Table) -> int:
    """Begin the log from a checkpoint and delete what is older; how many entries went."""
    # A commit without files, so that the newest entry says nothing of the ones that went.
    path = lake.path(table).replace("`", "``")
    lake.spark.sql(f"ALTER TABLE delta.`{path}` SET TBLPROPERTIES ('recsys.log' = 'begun anew')")
    log = delta_log(lake.spark, lake.path(table))
    snapshot = newest_snapshot(lake.spark, log)
    log.checkpoint(snapshot, no_option(lake.spark))
    folder = hadoop_path(lake.spark, f"{lake.path(table)}/_delta_log")
    system = file_system(lake.spark, folder)
    newest, gone = int(snapshot.version()), 0
    for status in system.listStatus(folder):
        number = str(status.getPath().getName()).lstrip(".").partition(".")[0]
        if number.isdecimal() and int(number) < newest:
            system.delete(status.getPath(), False)
            gone += 1
    java_class(lake.spark, "org.apache.spark.sql.delta.DeltaLog").clearCache()
    return gone


def prove(lake: Lake, log: LogFormat, users: Users) -> tuple[int, int]:
    """Read all data files and log entries that lie under the lake; files and log entries read.

    Raises:
        LakeError: a file still holds one of the users; it names the table.
    """
    files = entries = 0
    for table in schemas.TABLES:
        if not lake.exists(table):
            continue
        names = sorted(file.name for file in list_files(lake, table))
        found = _count_ids(lake, table, names, users)
        if table.name.startswith("bronze/"):
            # A record's text is parsed: an id may be a word of somebody else's record.
            found += records_of(lake, log, table, users).count()
            found += len(set(names) - files_of(lake, table, lake.version(table)))
        logs = log_files(lake, table)
        told = _count_told(lake, logs, users)
        if found or told:
            raise LakeError(
                f"table {table.name} still holds users that were to be erased: {found} rows or "
                f"files, {told} log entries",
                where=lake.path(table),
                do="run the same command again; if it stays, another job writes meanwhile",
            )
        files, entries = files + len(names), entries + len(logs)
    return files, entries


def _count_told(lake: Lake, logs: list[str], users: Users) -> int:
    """Lines of commits and rows of checkpoints that name one of the users."""
    session, told = _plain_session(lake), 0
    for end in (".json", ".parquet"):
        paths = [as_written(path) for path in logs if path.endswith(end)]
        if not paths:
            continue
        if end == ".json":
            lines = session.read.text(paths)
        else:
            rows = session.read.option("mergeSchema", "true").parquet(*paths)
            lines = rows.select(F.to_json(F.struct("*")).alias("value"))
        told += lines.where(F.col("value").rlike(_quoted(users))).count()
    return told


def _plain_session(lake: Lake) -> SparkSession:
    """One that reads the files themselves, not the table."""
    session = lake.spark.newSession()
    session.conf.set("spark.databricks.delta.formatCheck.enabled", "false")
    return session


def _quoted(users: Users) -> str:
    """An id as a text of the log's JSON, or of the statistics in it, whose quotes are escaped."""
    return '"(' + "|".join(re.escape(one) for one in {*users.raw, *users.pseudonyms}) + r')\\?"'


def _count_ids(lake: Lake, table: Table, names: list[str], users: Users) -> int:
    """Rows of the files, whichever version they belong to, that name one of the users."""
    columns = [c for c in table.columns if c.name in (*_ID_COLUMNS, schemas.MESSAGE)]
    if not columns or not names:
        return 0
    ddl = ", ".join(f"`{column.name}` {column.type}" for column in columns)
    base = base_path(lake, table)
    paths = [as_written(f"{base}/{name}") for name in names]
    rows = _plain_session(lake).read.schema(ddl).parquet(*paths)
    named = F.lit(False)
    for column in columns:
        value = F.col(column.name)
        found = value.isin(*users.raw, *users.pseudonyms)
        if column.name == schemas.MESSAGE:
            found = value.rlike("(?U)" + users.word)
        named |= F.coalesce(found, F.lit(False))
    return rows.where(named).count()
