"""Words of attributes, and their numbers by hash: the same every night, without a list of words."""

from __future__ import annotations

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys.schemas import ATTRIBUTES, WORD

_FEWEST_ITEMS = 2  # a word that one item alone has is shared by none


def words_of(rows: DataFrame, key: str) -> DataFrame:
    """The different words of each row's attributes, as ``name=word``: ``key``, word."""
    return (
        rows.where(F.col(ATTRIBUTES).isNotNull())
        .select(key, F.explode(ATTRIBUTES).alias("name", "value"))
        .select(key, "name", F.explode(F.split("value", r"[\s|,;]+")).alias("part"))
        .where("part != ''")
        .select(key, F.concat_ws("=", "name", "part").alias(WORD))
        .distinct()
    )


def shared_words(words: DataFrame) -> DataFrame:
    """The words (of ``words_of``) that several items have: column word."""
    return words.groupBy(WORD).count().where(F.col("count") >= _FEWEST_ITEMS).select(WORD)


def hash_word(word: Column, buckets: int) -> Column:
    """Spark's xxhash64 (seed 42) of ``name=word``, modulo ``buckets``: int from 0.

    Two words of one number share what is learned of them. Source: Weinberger et al. 2009, "Feature
    Hashing for Large Scale Multitask Learning", section 2, here without the sign.
    """
    return F.pmod(F.xxhash64(word), F.lit(buckets)).cast("int")
