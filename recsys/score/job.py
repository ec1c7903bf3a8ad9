"""The scoring job: a list for every user, written to gold/top_n, then checked."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

from pyspark import SparkFiles
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.bundle import check_files, load_config
from recsys.lake.parts import replace_in_parts
from recsys.lake.popularity import read_item_ids, read_popularity
from recsys.lake.tables import Commit, Lake
from recsys.models import class_of
from recsys.score.attributes import add_user_codes, check_catalogue, find_item_words
from recsys.score.carry import (
    ScoredNight,
    carry_lists,
    describe_basis,
    find_unchanged,
    reason_to_score_all,
)
from recsys.score.memory import describe_memory
from recsys.score.pack import write_pack
from recsys.score.progress import progress
from recsys.score.ranker import check_vectors
from recsys.score.rules import NightRules
from recsys.score.users import Versions, all_users, history_columns
from recsys.score.workers import rank_in_workers


@dataclass(frozen=True)
class Scored:
    """What ``score_users`` has done.

    Attributes:
        commit: of gold/top_n; all lists of the night are in it.
        basis: of the lists, for a later night (``carry.ScoredNight``).
        full_night: this night, or the earlier one in which every user was scored.
        carried: lists that are those of the earlier night.
    """

    commit: Commit
    basis: str
    full_night: date
    carried: int


def score_users(
    lake: Lake,
    bundle: Path,
    model_version: str,
    versions: Versions,
    run_date: date,
    say: Callable[[str], None] = lambda _: None,
    earlier: ScoredNight | None = None,
    rules: NightRules | None = None,
) -> Scored:
    """Score every user and replace the night's partition of gold/top_n.

    With ``score.commits`` above 1 a run that was cut off goes on behind its last commit.

    Args:
        earlier: a night whose lists are carried over where they are still right.
        say: is told what memory the workers need before they start, and how far they are.
        rules: what the lists obey; None: nothing.

    Raises:
        ConfigError: rules compare item vectors, and the model has none.
        RecsysError: the bundle is damaged.
        TrackingError: it was trained on another lake's catalogue.
    """
    night = _prepare(lake, bundle, model_version, versions, run_date, say, rules)
    users = _describe(lake, bundle, versions, run_date, night.events, rules)
    reason = reason_to_score_all(lake, earlier, night.basis, run_date)
    if reason is not None or earlier is None:
        say(f"  every user is scored: {reason}")
        return Scored(_write(night, users), night.basis, run_date, 0)
    before = _describe(lake, bundle, earlier.versions, earlier.run_date, night.events, rules)
    columns = (schemas.USER_ID, *night.events, schemas.SEEN_ITEMS, *night.groups)
    unchanged = find_unchanged(users.select(*columns), before.select(*columns))
    carried = carry_lists(lake, earlier, unchanged, lake.settings.score.n).persist()
    try:
        count = carried.count()
        say(f"  {count:,} lists are carried over from {earlier.run_date}, the others made anew")
        changed = users.join(carried.select(schemas.USER_ID), schemas.USER_ID, "left_anti")
        commit = _write(night, changed, carried, str(earlier))
        return Scored(commit, night.basis, earlier.full_night, count)
    finally:
        carried.unpersist()


@dataclass(frozen=True)
class _Night:
    """What all parts of a night's lists are made with.

    Attributes:
        events: columns of histories that the model looks at.
        pack: name of the file that executors have.
        basis: see ``Scored``.
        tasks: of the whole night.
        groups: the column rules_group, if rules tell users apart.
    """

    lake: Lake
    run_date: date
    model_version: str
    versions: Versions
    events: tuple[str, ...]
    pack: str
    basis: str
    tasks: int
    groups: tuple[str, ...]
    say: Callable[[str], None]


def _prepare(
    lake: Lake,
    bundle: Path,
    model_version: str,
    versions: Versions,
    run_date: date,
    say: Callable[[str], None],
    rules: NightRules | None,
) -> _Night:
    """Write the pack and give it to the executors."""
    settings, config = lake.settings, load_config(bundle)
    check_files(bundle)
    check_catalogue(lake, bundle, versions.items)
    item_ids = read_item_ids(lake, versions.items)
    items = len(item_ids) - 1
    arrays, n = None if rules is None else rules.arrays, settings.score.n
    check_vectors(class_of(config), arrays)
    wide, kept = (n, 0) if arrays is None else (arrays.width(n), arrays.bytes_of_items)
    say("  " + describe_memory(config, items, wide, kept))
    days = settings.evaluate.popularity_days
    popularity = read_popularity(lake, versions.item_stats, items, run_date, days).recent
    events, links = history_columns(bundle), find_item_words(lake, bundle, versions.items, items)
    model = f"{settings.tracking.model_name} {model_version}"
    model += "" if rules is None else f" {rules.basis}"
    basis = describe_basis(model, n, events, popularity, config.num_items, links)
    # Spark keeps a name's first file, and sends all files to executors that join later, too: so
    # each has its own name and stays in the folder that Spark removes when the application ends.
    pack = Path(SparkFiles.getRootDirectory()) / f"scoring-{uuid.uuid4().hex}.tar"
    write_pack(pack, bundle, item_ids, popularity, links, arrays)
    lake.spark.sparkContext.addFile(str(pack))
    # By the histories' size and not by the machine's cores: same batches, same scores to the bit.
    size = lake.size(schemas.GOLD_SEQUENCES, versions.sequences)
    tasks = settings.score.partitions or max(1, -(-size // (settings.score.partition_mb * 2**20)))
    groups = () if rules is None else tuple(rules.group_columns)
    return _Night(
        lake, run_date, model_version, versions, events, pack.name, basis, tasks, groups, say
    )


def _write(
    night: _Night, users: DataFrame, carried: DataFrame | None = None, source: str = ""
) -> Commit:
    """Rank users and replace the night's lists, in as many commits as the settings say.

    Args:
        carried: lists that are ready; they go with the first part.
        source: where they are from.
    """
    lake, commits = night.lake, min(night.lake.settings.score.commits, night.tasks)

    def make_part(number: int) -> DataFrame:
        own = users.where(F.pmod(F.xxhash64(schemas.USER_IDX), F.lit(commits)) == number)
        lists = (
            own.repartition(-(-night.tasks // commits), schemas.USER_IDX)
            .sortWithinPartitions(*night.groups, schemas.BUCKET, schemas.USER_IDX)
            .transform(
                rank_in_workers, night.pack, lake.settings.score.n, night.events, night.groups
            )
        )
        return (
            (lists if carried is None or number else lists.unionByName(carried))
            .withColumn(schemas.RUN_DATE, F.lit(night.run_date))
            .withColumn(schemas.MODEL_VERSION, F.lit(night.model_version))
        )

    def tell(number: int) -> AbstractContextManager[None]:
        what = "lists" if commits == 1 else f"lists, part {number + 1} of {commits}"
        return progress(lake.spark.sparkContext, what, night.say)

    key = "\n".join(map(str, (night.basis, night.versions, night.tasks, commits, source)))
    return replace_in_parts(
        lake,
        schemas.GOLD_TOP_N,
        [partial(make_part, number) for number in range(commits)],
        f"{schemas.RUN_DATE} = '{night.run_date}'",
        hashlib.sha256(key.encode()).hexdigest(),
        tell,
    )


def _describe(
    lake: Lake,
    bundle: Path,
    versions: Versions,
    run_date: date,
    events: Sequence[str],
    rules: NightRules | None,
) -> DataFrame:
    """All users of a night, with what the model and tonight's rules look at."""
    users = all_users(lake, versions, run_date, events)
    if rules is not None:
        users = rules.add_groups(lake, users, versions.users, versions.user_attributes)
    if schemas.USER_ATTRIBUTES not in events:
        return users
    return add_user_codes(lake, users, bundle, versions.users, versions.user_attributes)
