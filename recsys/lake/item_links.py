"""gold/item_links: what items share, for models whose item vectors take from each other."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from recsys import schemas
from recsys.config import Model
from recsys.lake.tables import Commit, Lake
from recsys.lake.words import hash_word, shared_words, words_of
from recsys.schemas import (
    ATTRIBUTE_LINKS,
    CONTEXT,
    HASHED_LINKS,
    ITEM_IDX,
    ITEMS,
    KIND,
    LENGTH,
    LINKED,
    NEIGHBOR_LINKS,
    WEIGHT,
    WORD,
)

_COUNT, _DEGREE, _OTHER, _PAIR = "_count", "_degree", "_degree_of_other", "_pair"
_RANK = "_rank"


def link_kinds(model: Model) -> tuple[str, ...]:
    """The kinds of links that a model of these settings makes use of."""
    if model.kind == "two_tower":
        return (HASHED_LINKS,)
    neighbors = (NEIGHBOR_LINKS,) if model.neighbor_weight > 0 else ()
    return (*neighbors, ATTRIBUTE_LINKS) if model.attributes else neighbors


def write_item_links(lake: Lake, versions: Mapping[str, int], model: Model) -> Commit:
    """Write the links that ``model`` makes use of, from pinned tables.

    Args:
        versions: of gold/training_sequences (so nothing of the hold-out is in it) and silver/items.
        model: settings, for which there is one of ``link_kinds``.
    """
    wanted, kinds = link_kinds(model), []
    items = lake.read(schemas.SILVER_ITEMS, versions[schemas.SILVER_ITEMS.name])
    if NEIGHBOR_LINKS in wanted:
        windows = lake.read(
            schemas.GOLD_TRAINING_SEQUENCES, versions[schemas.GOLD_TRAINING_SEQUENCES.name]
        )
        # Not of the users that choose the best epoch: links would tell the model their targets.
        trained = windows.where(F.col(schemas.SPLIT) == schemas.TRAIN_SPLIT)
        found = link_neighbors(trained, model.neighbor_window, model.neighbors)
        kinds.append(found.withColumn(KIND, F.lit(NEIGHBOR_LINKS)))
    if ATTRIBUTE_LINKS in wanted:
        kinds.append(link_attributes(items).withColumn(KIND, F.lit(ATTRIBUTE_LINKS)))
    if HASHED_LINKS in wanted:
        hashed = link_hashed(items, model.attribute_buckets)
        kinds.append(hashed.withColumn(KIND, F.lit(HASHED_LINKS)))
    links = kinds[0] if len(kinds) == 1 else kinds[0].unionByName(kinds[1])
    return lake.replace(schemas.GOLD_ITEM_LINKS, links)


def pin_item_links(lake: Lake, version: int) -> dict[str, list[str]]:
    """Urls of the files of one version, by kind."""
    rows = (
        lake.read(schemas.GOLD_ITEM_LINKS, version)
        .select(KIND, F.input_file_name().alias("url"))
        .distinct()
        .orderBy(KIND, "url")
        .collect()
    )
    urls: dict[str, list[str]] = {}
    for kind, url in rows:
        urls.setdefault(kind, []).append(url)
    return urls


def read_neighbors(lake: Lake, windows_version: int, apart: int, most: int) -> pa.Table:
    """Neighbours of all items as columns item_idx, linked and weight, for the driver."""
    windows = lake.read(schemas.GOLD_TRAINING_SEQUENCES, windows_version)
    return link_neighbors(windows, apart, most).toArrow()


def link_neighbors(windows: DataFrame, apart: int, most: int) -> DataFrame:
    """Items that users had within ``apart`` events of each other: item_idx, linked, weight.

    The weight of a pair is count / sqrt(degree * degree), a degree being an item's sum of counts
    (the normalisation of He et al. 2020, "LightGCN", equation 3). Of an item the ``most`` highest
    weights are kept, ties by the lower index.

    Args:
        windows: items (zeros in front), length and context of gold/training_sequences; what two
            windows share is counted once.
        apart: events apart from each other at most.
        most: neighbours of an item at most.
    """
    own = F.slice(F.col(ITEMS), F.size(ITEMS) - F.col(LENGTH) + 1, F.col(LENGTH))

    def pairs_at(distance: int) -> Column:
        # The later one of a pair is no context: an older window has that pair.
        start = F.greatest(F.lit(distance), F.col(CONTEXT))
        count = F.greatest(F.col(LENGTH) - start, F.lit(0))
        first, second = (F.slice(own, start + 1 - back, count) for back in (distance, 0))
        return F.when(count > 0, F.zip_with(first, second, _ordered)).otherwise(F.array())

    distances = range(1, apart + 1)
    pairs = windows.select(F.explode(F.flatten(F.array(*map(pairs_at, distances)))).alias(_PAIR))
    counted = (
        pairs.where(F.col(f"{_PAIR}.a") != F.col(f"{_PAIR}.b"))
        .groupBy(f"{_PAIR}.a", f"{_PAIR}.b")
        .agg(F.count(F.lit(1)).alias(_COUNT))
    )
    turned = F.struct(F.col("b").alias("a"), F.col("a").alias("b"))
    both = F.explode(F.array(F.struct("a", "b"), turned))
    links = counted.select(both.alias(_PAIR), _COUNT).select(
        F.col(f"{_PAIR}.a").alias(ITEM_IDX), F.col(f"{_PAIR}.b").alias(LINKED), _COUNT
    )
    degrees = links.groupBy(ITEM_IDX).agg(F.sum(_COUNT).alias(_DEGREE))
    others = degrees.select(F.col(ITEM_IDX).alias(LINKED), F.col(_DEGREE).alias(_OTHER))
    product = F.col(_DEGREE).cast("double") * F.col(_OTHER)
    weighed = (
        links.join(degrees, ITEM_IDX)
        .join(others, LINKED)
        .select(ITEM_IDX, LINKED, (F.col(_COUNT) / F.sqrt(product)).cast("float").alias(WEIGHT))
    )
    best = Window.partitionBy(ITEM_IDX).orderBy(F.desc(WEIGHT), LINKED)
    ranked = weighed.withColumn(_RANK, F.row_number().over(best))
    return ranked.where(F.col(_RANK) <= most).drop(_RANK)


def _ordered(first: Column, second: Column) -> Column:
    return F.struct(F.least(first, second).alias("a"), F.greatest(first, second).alias("b"))


def link_attributes(items: DataFrame) -> DataFrame:
    """Each item's words: item_idx, linked (the word, from 0, in the order of words), weight 1.

    A word is one of an attribute's value, with the attribute's name; words of one item alone are
    left out.

    Args:
        items: item_idx and attributes of silver/items.
    """
    words = words_of(items, ITEM_IDX)
    # One task orders the different words, of which a catalogue has few beside its items.
    number = (F.row_number().over(Window.orderBy(WORD)) - 1).alias(LINKED)
    return words.join(shared_words(words).select(WORD, number), WORD).select(
        ITEM_IDX, LINKED, F.lit(1.0).cast("float").alias(WEIGHT)
    )


def link_hashed(items: DataFrame, buckets: int) -> DataFrame:
    """Each item's words: item_idx, linked (the word's hash, from 0), weight 1.

    The words are those of ``link_attributes``.

    Args:
        items: item_idx and attributes of silver/items.
        buckets: different hashes.
    """
    words = words_of(items, ITEM_IDX)
    return (
        words.join(shared_words(words), WORD)
        .select(ITEM_IDX, hash_word(F.col(WORD), buckets).alias(LINKED))
        .distinct()
        .withColumn(WEIGHT, F.lit(1.0).cast("float"))
    )


def read_hashed(lake: Lake, version: int, buckets: int) -> pa.Table:
    """``link_hashed`` of one version of silver/items, for the driver."""
    return link_hashed(lake.read(schemas.SILVER_ITEMS, version), buckets).toArrow()
