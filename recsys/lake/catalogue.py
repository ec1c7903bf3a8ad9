"""Titles and attributes of items, from the catalogue beside the log."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.errors import InputError
from recsys.lake.faults import explain_write
from recsys.lake.formats import Catalogue, LogFormat
from recsys.lake.tables import Lake


def load_catalogue(lake: Lake, log: LogFormat, input_root: str | None) -> DataFrame | None:
    """item_id, title, attributes of the log's catalogue; ``None`` where it has none.

    Raises:
        InputError: the catalogue is missing or lacks a declared column.
    """
    if log.items is None or input_root is None:
        return None
    return read_catalogue(lake, log.items, f"{input_root.rstrip('/')}/{log.items.file}")


def add_titles(items: DataFrame, catalogue: DataFrame | None) -> DataFrame:
    """Add title and attributes to item ids; null where the catalogue does not say."""
    if catalogue is not None:
        return items.join(catalogue, schemas.ITEM_ID, "left")
    return items.withColumns(
        {
            schemas.TITLE: F.lit(None).cast("string"),
            schemas.ATTRIBUTES: F.lit(None).cast("map<string,string>"),
        }
    )


def update_titles(lake: Lake, catalogue: DataFrame | None) -> None:
    """Bring known items up to the catalogue; no commit where nothing differs.

    Raises:
        ConflictError: another run has written the items meanwhile.
    """
    if catalogue is None or not lake.exists(schemas.SILVER_ITEMS):
        return
    differs = (
        "not (i.title <=> c.title) or not (map_entries(i.attributes) <=> map_entries(c.attributes))"
    )
    items = lake.read(schemas.SILVER_ITEMS).alias("i")
    changed = (
        items.join(catalogue.alias("c"), schemas.ITEM_ID).where(differs).select("c.*").persist()
    )
    try:
        if changed.isEmpty():
            return
        columns: dict[str, str | Column] = {
            name: f"c.{name}" for name in (schemas.TITLE, schemas.ATTRIBUTES)
        }
        merge = (
            lake.delta(schemas.SILVER_ITEMS)
            .alias("i")
            .merge(changed.alias("c"), f"i.{schemas.ITEM_ID} = c.{schemas.ITEM_ID}")
            .whenMatchedUpdate(set=columns)
        )
        try:
            merge.execute()
        except Exception as error:
            items_path = lake.path(schemas.SILVER_ITEMS)
            raise explain_write(schemas.SILVER_ITEMS.name, items_path, error) from error
    finally:
        changed.unpersist()


def read_catalogue(lake: Lake, catalogue: Catalogue, path: str) -> DataFrame:
    """item_id, title, attributes; of two rows with one id the smaller title wins."""
    try:
        rows = lake.spark.read.csv(path, sep=catalogue.delimiter, header=True)
    except Exception as error:
        if "PATH_NOT_FOUND" not in str(error):
            raise
        raise InputError(
            "the item catalogue is missing",
            where=path,
            do="put it there, or remove `items` from the log's format (lists then have no titles)",
        ) from None
    wanted = [catalogue.item_id, *catalogue.attributes.values()]
    wanted += [catalogue.title] if catalogue.title else []
    if missing := [name for name in wanted if name not in rows.columns]:
        raise InputError(
            f"the item catalogue has no column {missing[0]}",
            where=f"{path} has {', '.join(rows.columns)}",
            do="correct `items` in the log's format",
        )
    pairs = [
        x
        for ours, theirs in catalogue.attributes.items()
        for x in (F.lit(ours), F.col(f"`{theirs}`"))
    ]
    title = F.col(f"`{catalogue.title}`") if catalogue.title else F.lit(None).cast("string")
    attributes = F.create_map(*pairs) if pairs else F.lit(None).cast("map<string,string>")
    described = F.struct(title.alias(schemas.TITLE), attributes.alias(schemas.ATTRIBUTES))
    item_id = F.trim(F.col(f"`{catalogue.item_id}`")).alias(schemas.ITEM_ID)
    order = F.struct(F.coalesce(title, F.lit("")), *[F.col(f"`{name}`") for name in wanted])
    first = F.min_by(described, order).alias("_item")
    return rows.groupBy(item_id).agg(first).select(schemas.ITEM_ID, "_item.*")
