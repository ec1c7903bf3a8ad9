"""Attributes of today's items and users, as a bundle's model takes them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.bundle import load_config, load_for_scoring, load_info
from recsys.errors import TrackingError
from recsys.lake.item_links import read_hashed
from recsys.lake.local import local_frame
from recsys.lake.popularity import hash_items
from recsys.lake.tables import Lake
from recsys.lake.user_links import hash_users
from recsys.models import Links, Recommender
from recsys.ranking.histories import Histories
from recsys.ranking.neighbors import Neighbors, group_links


def find_item_words(
    lake: Lake, bundle: Path, items_version: int, num_items: int
) -> Neighbors | None:
    """Hashes of the words of today's items, for a model that knows new items by them; else None.

    Args:
        items_version: of silver/items.
        num_items: largest item_idx in it.
    """
    buckets = count_buckets(bundle)
    if not buckets:
        return None
    found = read_hashed(lake, items_version, buckets)
    columns = (schemas.ITEM_IDX, schemas.LINKED, schemas.WEIGHT)
    items, linked, weights = (found.column(name).to_numpy() for name in columns)
    return group_links(items, linked, weights, num_items)


def check_catalogue(lake: Lake, bundle: Path, items_version: int) -> None:
    """Refuse a model whose item numbers mean other items.

    Raises:
        TrackingError: the bundle was trained on another catalogue than this lake's.
    """
    info = load_info(bundle)
    if info.catalogue and info.catalogue != hash_items(lake, items_version, info.num_items):
        raise TrackingError(
            f"the model of {info.run_date} (run {info.run_id}) was trained on another catalogue: "
            f"its {info.num_items:,} items are not this lake's first ones",
            where=str(bundle),
            do="does another lake use the same tracking.model_name? Give each lake a name of its "
            "own; the lists published before stay live",
        )


def load_extended(lake: Lake, bundle: Path, items_version: int, num_items: int) -> Recommender:
    """A bundle's model for scoring, with today's items as far as it can know them.

    Raises:
        TrackingError: as ``check_catalogue``.
    """
    check_catalogue(lake, bundle, items_version)
    words = find_item_words(lake, bundle, items_version, num_items)
    links = None if words is None else Links(*map(torch.from_numpy, words))
    return load_for_scoring(bundle, links)


def add_user_codes(
    lake: Lake, users: DataFrame, bundle: Path, users_version: int, attributes_version: int
) -> DataFrame:
    """Add user_attributes (array<int>, empty where nothing is known) to rows with user_idx."""
    codes = hash_users(lake, users_version, attributes_version, count_buckets(bundle))
    known = F.coalesce(F.col(schemas.USER_ATTRIBUTES), F.array().cast("array<int>"))
    return users.join(codes, schemas.USER_IDX, "left").withColumn(schemas.USER_ATTRIBUTES, known)


def describe_users(
    lake: Lake, histories: Histories, bundle: Path, users_version: int, attributes_version: int
) -> Histories:
    """Histories (with user_idx) for a bundle's model: with attributes where it looks at them."""
    if schemas.USER_ATTRIBUTES not in load_config(bundle).looks_at or histories.user_idx is None:
        return histories
    wanted = [(int(user),) for user in histories.user_idx]
    users = local_frame(lake.spark, wanted, f"{schemas.USER_IDX} int")
    rows = add_user_codes(lake, users, bundle, users_version, attributes_version).toArrow()
    indices, codes = (rows.column(name) for name in (schemas.USER_IDX, schemas.USER_ATTRIBUTES))
    by_user = dict(zip(indices.to_pylist(), codes.to_pylist(), strict=True))
    known = [np.array(by_user[int(user)], dtype=np.int64) for user in histories.user_idx]
    return dataclasses.replace(histories, user_attributes=known)


def count_buckets(bundle: Path) -> int:
    """Different hashes of words that a bundle's model takes; 0 where it takes none."""
    return int(getattr(load_config(bundle), "attribute_buckets", 0))
