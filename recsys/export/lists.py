"""The lists that are live, as they are exported."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import date

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import ExportError
from recsys.java import delta_log, newest_snapshot
from recsys.lake.publish import Published, lists_of, live
from recsys.lake.tables import Lake

COLUMNS = (schemas.USER_ID, schemas.RUN_DATE, schemas.MODEL_VERSION, schemas.RECOMMENDATIONS)
"""What a row of an export has, in this order."""


@dataclass(frozen=True)
class Lists:
    """One version of the published lists.

    Attributes:
        version: the night's date and a hash: equal for equal lists, in every export of them.
        run_date: the night.
        model_version: of the model that made them.
        table_version: of gold/top_n.
        count: how many there are.
        rows: ``COLUMNS``, a row a user.
    """

    version: str
    run_date: date
    model_version: str
    table_version: int
    count: int
    rows: DataFrame


def read_live(lake: Lake, raw_user_ids: bool) -> Lists:
    """The lists that are live now.

    Args:
        raw_user_ids: users by the log's ids, from the vault, instead of by pseudonyms.

    Raises:
        PublishError: nothing is published.
        ExportError: the vault lacks a user.
    """
    night = live(lake)
    rows = lists_of(lake, night).select(*COLUMNS)
    count = rows.count()
    raw = raw_user_ids and lake.settings.privacy.pseudonyms
    if raw:
        rows = _with_raw_ids(lake, rows, count)
    return Lists(
        _version_of(lake, night, raw),
        night.run_date,
        night.model_version,
        night.top_n_version,
        count,
        rows,
    )


def _with_raw_ids(lake: Lake, rows: DataFrame, count: int) -> DataFrame:
    vault = lake.read(schemas.SILVER_USER_VAULT).select(schemas.USER_ID, schemas.RAW_USER_ID)
    named = rows.join(vault, schemas.USER_ID).withColumn(
        schemas.USER_ID, F.col(schemas.RAW_USER_ID)
    )
    found = named.count()
    if found != count:
        raise ExportError(
            f"the vault knows {found:,} of {count:,} users with a list",
            where=lake.path(schemas.SILVER_USER_VAULT),
            do="check lake.vault_root, or export pseudonyms (raw_user_ids: false)",
        )
    return named.select(*COLUMNS)


def _version_of(lake: Lake, night: Published, raw: bool) -> str:
    # A table that was begun anew (recsys erase, another lake) counts its versions from 0 again.
    snapshot = newest_snapshot(lake.spark, delta_log(lake.spark, lake.path(schemas.GOLD_TOP_N)))
    parts = (snapshot.metadata().id(), night.top_n_version, night.model_version, raw)
    text = "\n".join(str(part) for part in (night.run_date, *parts))
    return f"{night.run_date}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
