"""Words of users' attributes by their hash: gold/user_links for training, arrays for scoring."""

from __future__ import annotations

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.lake.local import local_frame
from recsys.lake.tables import Commit, Lake
from recsys.lake.words import hash_word, words_of
from recsys.schemas import LINKED, USER_ATTRIBUTES, USER_ID, USER_IDX, USER_LINKS, WORD


def hash_users(lake: Lake, users: int, attributes: int, buckets: int) -> DataFrame:
    """user_idx and user_attributes (array<int>: hashes of the words, from 1, ascending).

    Users without attributes have no row.

    Args:
        users, attributes: versions of silver/users and silver/user_attributes; -1: nobody has any.
        buckets: different hashes.
    """
    table = schemas.SILVER_USER_ATTRIBUTES
    if attributes < 0:
        return local_frame(lake.spark, [], f"{USER_IDX} int, {USER_ATTRIBUTES} array<int>")
    code = hash_word(F.col(WORD), buckets) + 1
    return (
        words_of(lake.read(table, attributes), USER_ID)
        .groupBy(USER_ID)
        .agg(F.array_sort(F.collect_set(code)).alias(USER_ATTRIBUTES))
        .join(lake.read(schemas.SILVER_USERS, users).select(USER_ID, USER_IDX), USER_ID)
        .select(USER_IDX, USER_ATTRIBUTES)
    )


def write_user_links(lake: Lake, users: int, attributes: int, buckets: int) -> Commit:
    """Write gold/user_links from pinned tables; arguments as for ``hash_users``."""
    codes = hash_users(lake, users, attributes, buckets)
    links = codes.select(USER_IDX, F.explode(USER_ATTRIBUTES).alias(LINKED))
    return lake.replace(schemas.GOLD_USER_LINKS, links)


def pin_user_links(lake: Lake, version: int) -> dict[str, list[str]]:
    """Urls of the files of one version of gold/user_links, as ``pin_item_links`` gives them."""
    rows = lake.read(schemas.GOLD_USER_LINKS, version)
    urls = sorted(row[0] for row in rows.select(F.input_file_name()).distinct().collect())
    return {USER_LINKS: urls} if urls else {}
