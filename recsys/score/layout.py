"""What all lists of a night are made with, laid out before any is made."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pyspark import SparkFiles
from pyspark.sql import DataFrame

from recsys import schemas
from recsys.bundle import check_files, load_config
from recsys.lake.popularity import read_item_ids, read_popularity
from recsys.lake.tables import Lake
from recsys.models import class_of
from recsys.ranking.neighbors import Neighbors
from recsys.score.attributes import add_user_codes, check_catalogue, find_item_words
from recsys.score.memory import describe_memory
from recsys.score.method import check_method, has_vectors
from recsys.score.pack import write_pack
from recsys.score.ranker import check_vectors
from recsys.score.rules import NightRules
from recsys.score.users import Versions, history_columns, known_users


@dataclass(frozen=True)
class Layout:
    """A night's model and candidates.

    Attributes:
        pack: the file for executors, in a folder that Spark removes when the application ends.
        memory: a line for the log, what workers need.
        popularity: float32 [items + 1], the catalogue of the night.
        known_items: largest item_idx that the model has learned.
        words: of all items, for a model that knows new ones by them.
        events: columns of histories that the model looks at.
        groups: the column rules_group, if rules tell users apart.
        tasks: of all lists.
        has_vectors: whether the model scores by item vectors.
    """

    pack: Path
    memory: str
    popularity: npt.NDArray[np.float32]
    known_items: int
    words: Neighbors | None
    events: tuple[str, ...]
    groups: tuple[str, ...]
    tasks: int
    has_vectors: bool


def lay_out(
    lake: Lake, bundle: Path, versions: Versions, run_date: date, rules: NightRules | None
) -> Layout:
    """Check the bundle, and write the pack.

    Raises:
        ConfigError: rules or score.method compare item vectors, and the model has none.
        RecsysError: the bundle is damaged.
        TrackingError: it was trained on another lake's catalogue.
    """
    settings, config = lake.settings, load_config(bundle)
    check_files(bundle)
    check_catalogue(lake, bundle, versions.items)
    item_ids = read_item_ids(lake, versions.items)
    items = len(item_ids) - 1
    arrays, score, kind = None if rules is None else rules.arrays, settings.score, class_of(config)
    check_vectors(kind, arrays)
    check_method(kind, score.method, score.device)
    wide, kept = (score.n, 0) if arrays is None else (arrays.width(score.n), arrays.bytes_of_items)
    may_search = score.method != "exact" and has_vectors(kind)
    memory = describe_memory(
        config, items, wide, kept, clusters=may_search, gpu=score.device != "cpu"
    )
    days = settings.evaluate.popularity_days
    popularity = read_popularity(lake, versions.item_stats, items, run_date, days).recent
    words = find_item_words(lake, bundle, versions.items, items)
    # Spark keeps a name's first file, and sends all files to executors that join later, too: so
    # each has its own name and stays in the folder that Spark removes when the application ends.
    pack = Path(SparkFiles.getRootDirectory()) / f"scoring-{uuid.uuid4().hex}.tar"
    write_pack(pack, bundle, item_ids, popularity, words, arrays)
    # By the histories' size and not by the machine's cores: same batches, same scores to the bit.
    size = lake.size(schemas.GOLD_SEQUENCES, versions.sequences)
    return Layout(
        pack,
        memory,
        popularity,
        config.num_items,
        words,
        history_columns(bundle),
        () if rules is None else tuple(rules.group_columns),
        score.partitions or max(1, -(-size // (score.partition_mb * 2**20))),
        has_vectors(kind),
    )


def describe(
    lake: Lake,
    bundle: Path,
    versions: Versions,
    run_date: date,
    events: Sequence[str],
    rules: NightRules | None,
) -> DataFrame:
    """All users of a night, with what the model and tonight's rules look at beside histories."""
    users = known_users(lake, versions, run_date)
    if rules is not None:
        users = rules.add_groups(lake, users, versions.users, versions.user_attributes)
    if schemas.USER_ATTRIBUTES not in events:
        return users
    return add_user_codes(lake, users, bundle, versions.users, versions.user_attributes)
