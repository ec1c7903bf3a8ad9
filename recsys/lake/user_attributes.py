"""silver/user_attributes: what the log's file of users says, as far as the settings name it."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import ConfigError, InputError
from recsys.lake.formats import LogFormat, UserFile
from recsys.lake.local import local_frame
from recsys.lake.pseudonyms import add_pseudonyms
from recsys.lake.tables import Lake


def load_user_attributes(
    lake: Lake, log: LogFormat, input_root: str | None, key: bytes | None
) -> DataFrame | None:
    """raw_user_id, user_id and attributes of the users in the log's file of users.

    Args:
        key: of the pseudonyms.

    Returns:
        ``None`` where ``privacy.user_attributes`` names nothing: the file is not opened then.

    Raises:
        ConfigError: a name is not one of the format's.
        InputError: the file is missing or lacks a declared column.
    """
    named = lake.settings.privacy.user_attributes
    if not named or input_root is None:
        return None
    users = _check_named(log, named)
    rows = read_user_file(lake, users, named, f"{input_root.rstrip('/')}/{users.file}")
    return add_pseudonyms(rows, key)


def _check_named(log: LogFormat, named: Sequence[str]) -> UserFile:
    known = sorted(log.users.attributes) if log.users else []
    unknown = [name for name in named if name not in known]
    if log.users is None or unknown:
        raise ConfigError(
            f"privacy.user_attributes={list(named)}: the log's format has no such attribute",
            where=f"users of the format; it has {', '.join(known) or 'none'}",
            do="name attributes of the format, or declare them there",
        )
    return log.users


def read_user_file(lake: Lake, users: UserFile, named: Sequence[str], path: str) -> DataFrame:
    """raw_user_id and attributes (of ``named`` alone); of two rows of one id the larger wins."""
    try:
        rows = lake.spark.read.csv(path, sep=users.delimiter, header=True)
    except Exception as error:
        if "PATH_NOT_FOUND" not in str(error):
            raise
        raise InputError(
            "the file of users is missing",
            where=path,
            do="put it there, or set privacy.user_attributes=[]",
        ) from None
    columns = {name: users.attributes[name] for name in sorted(named)}
    missing = [name for name in (users.user_id, *columns.values()) if name not in rows.columns]
    if missing:
        raise InputError(
            f"the file of users has no column {missing[0]}",
            where=f"{path} has {', '.join(rows.columns)}",
            do="correct `users` in the log's format",
        )
    values = {
        name: _band(F.col(f"`{theirs}`"), users.bands.get(name, ()))
        for name, theirs in columns.items()
    }
    # A map has no order; an array of its entries has one.
    pairs = [
        F.struct(F.lit(name).alias("name"), F.trim(value).alias("value"))
        for name, value in values.items()
    ]
    told = F.filter(F.array(*pairs), lambda pair: F.coalesce(pair["value"] != "", F.lit(False)))
    raw = F.trim(F.col(f"`{users.user_id}`")).alias(schemas.RAW_USER_ID)
    return (
        rows.groupBy(raw)
        .agg(F.map_from_entries(F.max(told)).alias(schemas.ATTRIBUTES))
        .where(F.coalesce(F.col(schemas.RAW_USER_ID) != "", F.lit(False)))
    )


def _band(value: Column, ends: Sequence[float]) -> Column:
    """The band that a number lies in, as text; a value without bands as it is."""
    if not ends:
        return value
    number, text = F.trim(value).try_cast("double"), [f"{end:g}" for end in ends]
    found = F.when(number < ends[0], f"<{text[0]}")
    for place in range(1, len(ends)):
        found = found.when(number < ends[place], f"{text[place - 1]}-{text[place]}")
    return found.when(number < float("inf"), f"{text[-1]}+")


def write_user_attributes(lake: Lake, rows: DataFrame | None) -> int:
    """Replace silver/user_attributes; without ``rows`` what earlier nights have read goes too.

    Returns:
        Rows written.
    """
    table = schemas.SILVER_USER_ATTRIBUTES
    if rows is not None:
        return lake.replace(table, rows.where(F.size(schemas.ATTRIBUTES) > 0)).rows
    for old in (table, schemas.GOLD_USER_LINKS):
        if lake.exists(old) and not lake.read(old).isEmpty():
            lake.replace(old, local_frame(lake.spark, [], old.ddl))
    return 0
