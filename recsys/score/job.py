"""The scoring job: a list for every user, written to gold/top_n, then checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.lake.added_files import NewFiles, find_folder
from recsys.lake.parts import replace_in_parts
from recsys.lake.tables import Commit, Lake
from recsys.lake.worker_files import FILES_DDL
from recsys.score.carry import (
    ScoredNight,
    carry_lists,
    describe_basis,
    find_unchanged,
    reason_to_score_all,
)
from recsys.score.device import explain_lack_of_gpu
from recsys.score.layout import Layout, describe, lay_out
from recsys.score.method import EXACT, NO_VECTORS, Search, choose_search, count_cores
from recsys.score.pack import add_clusters, open_pack
from recsys.score.progress import progress
from recsys.score.rules import NightRules
from recsys.score.users import Versions, add_histories, joined_in
from recsys.score.workers import Scorer, files_of_lists, rank_in_workers, write_in_workers


@dataclass(frozen=True)
class Scored:
    """What ``score_users`` has done.

    Attributes:
        commit: of gold/top_n; all lists of the night are in it.
        basis: of the lists, for a later night (``carry.ScoredNight``).
        full_night: this night, or the earlier one in which every user was scored.
        carried: lists that are those of the earlier night.
        search: how users are ranked.
    """

    commit: Commit
    basis: str
    full_night: date
    carried: int
    search: Search


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
        ConfigError: rules or score.method compare item vectors, and the model has none; or lists
            are to be made on GPUs, and an executor has none.
        RecsysError: the bundle is damaged.
        TrackingError: it was trained on another lake's catalogue.
    """
    layout = lay_out(lake, bundle, versions, run_date, rules)
    say(f"  {layout.memory}")
    users = describe(lake, bundle, versions, run_date, layout.events, rules)
    search = _choose(lake, layout, users, versions, say)
    lake.spark.sparkContext.addFile(str(layout.pack))
    model = f"{lake.settings.tracking.model_name} {model_version}"
    model += "" if rules is None else f" {rules.basis}"
    basis = describe_basis(
        model, lake.settings.score.n, layout.events, layout.popularity, layout.known_items,
        layout.words, search.identity,
    )  # fmt: skip
    night = _Night(lake, run_date, model_version, versions, layout, basis, say)
    reason = reason_to_score_all(lake, earlier, basis, run_date)
    if reason is not None or earlier is None:
        say(f"  every user is scored: {reason}")
        return Scored(_write(night, users), basis, run_date, 0, search)
    before = describe(lake, bundle, earlier.versions, earlier.run_date, layout.events, rules)
    before = add_histories(lake, before, earlier.versions, layout.events)
    histories = add_histories(lake, users, versions, layout.events)
    columns = (schemas.USER_ID, *layout.events, schemas.SEEN_ITEMS, *layout.groups)
    unchanged = find_unchanged(histories.select(*columns), before.select(*columns))
    carried = carry_lists(lake, earlier, unchanged, lake.settings.score.n).persist()
    try:
        count = carried.count()
        say(f"  {count:,} lists are carried over from {earlier.run_date}, the others made anew")
        changed = users.join(carried.select(schemas.USER_ID), schemas.USER_ID, "left_anti")
        commit = _write(night, changed, carried, str(earlier))
        return Scored(commit, basis, earlier.full_night, count, search)
    finally:
        carried.unpersist()


@dataclass(frozen=True)
class _Night:
    """What all parts of a night's lists are made with.

    Attributes:
        layout: the pack is with the executors.
        basis: see ``Scored``.
    """

    lake: Lake
    run_date: date
    model_version: str
    versions: Versions
    layout: Layout
    basis: str
    say: Callable[[str], None]


def _choose(
    lake: Lake, layout: Layout, users: DataFrame, versions: Versions, say: Callable[[str], None]
) -> Search:
    """How users are ranked; clusters are put into the pack."""
    score = lake.settings.score
    if score.method == "exact":
        return EXACT
    if layout.has_vectors:
        pack = open_pack(layout.pack)
        histories = add_histories(lake, users, versions, layout.events)
        search = choose_search(score, pack, histories, layout.events, count_cores(lake))
    else:
        search = NO_VECTORS
    if search.clusters is not None:
        add_clusters(layout.pack, search.clusters)
    say(f"  {search.reason}")
    return search


def _write(
    night: _Night, users: DataFrame, carried: DataFrame | None = None, source: str = ""
) -> Commit:
    """Rank users and replace the night's lists, in as many commits as the settings say.

    Args:
        users: from ``describe``.
        carried: lists that are ready; they go with the first part.
        source: where they are from.
    """
    lake, layout = night.lake, night.layout
    score = lake.settings.score
    commits = min(score.commits, layout.tasks)
    tasks = -(-layout.tasks // commits)

    partition = {schemas.RUN_DATE: str(night.run_date)}
    url = None if score.writer == "spark" else find_folder(lake, schemas.GOLD_TOP_N, partition)

    def make_part(number: int) -> DataFrame | NewFiles:
        def place(rows: DataFrame) -> DataFrame:
            part = rows.where(F.pmod(F.xxhash64(schemas.USER_IDX), F.lit(commits)) == number)
            return part.repartition(tasks, schemas.USER_IDX)

        own = add_histories(lake, users, night.versions, layout.events, place)
        own = own.sortWithinPartitions(*layout.groups, schemas.BUCKET, schemas.USER_IDX)
        ready = carried if number == 0 else None
        if url is not None:
            return NewFiles(_write_files(night, own, ready, url), partition)
        return _make_rows(night, own, ready)

    @contextmanager
    def around(number: int) -> Iterator[None]:
        what = "lists" if commits == 1 else f"lists, part {number + 1} of {commits}"
        with joined_in(lake.spark, tasks), progress(lake.spark.sparkContext, what, night.say):
            yield

    key = "\n".join(map(str, (night.basis, night.versions, layout.tasks, commits, source)))
    with explain_lack_of_gpu():
        return replace_in_parts(
            lake,
            schemas.GOLD_TOP_N,
            [partial(make_part, number) for number in range(commits)],
            f"{schemas.RUN_DATE} = '{night.run_date}'",
            hashlib.sha256(key.encode()).hexdigest(),
            around,
        )


def _scorer(night: _Night) -> Scorer:
    layout, score = night.layout, night.lake.settings.score
    return Scorer(layout.pack.name, score.n, layout.events, layout.groups, score.device)


def _write_files(night: _Night, users: DataFrame, ready: DataFrame | None, url: str) -> DataFrame:
    """Files of lists in the folder ``url``: the workers write what they rank."""
    folder = files_of_lists(url, night.lake.settings.lake.store)
    files = write_in_workers(users, _scorer(night), folder, night.model_version)
    if ready is None:
        return files
    versioned = ready.withColumn(schemas.MODEL_VERSION, F.lit(night.model_version))
    return files.union(versioned.mapInArrow(folder.write, FILES_DDL))


def _make_rows(night: _Night, users: DataFrame, ready: DataFrame | None) -> DataFrame:
    """Rows of lists, for Spark to write."""
    lists = rank_in_workers(users, _scorer(night))
    lists = lists if ready is None else lists.unionByName(ready)
    return lists.withColumns(
        {
            schemas.RUN_DATE: F.lit(night.run_date),
            schemas.MODEL_VERSION: F.lit(night.model_version),
        }
    )
