"""Lists of an earlier night that are still right: carried over, so that only changes are scored.

A list of the model alone depends on the model, on the candidates and on what the user did. Where
the first two are as they were, users of an unchanged history keep their list. A list with fallback
items follows the popularity of the day, and is made anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from recsys import schemas
from recsys.lake.tables import Lake
from recsys.ranking.neighbors import Neighbors
from recsys.score.users import Versions


@dataclass(frozen=True)
class ScoredNight:
    """An earlier night, as far as its lists can be carried over.

    Attributes:
        run_date: the night.
        versions: that it was scored with.
        top_n: version of gold/top_n with its lists.
        basis: ``describe_basis`` of it.
        full_night: the last night, up to this one, in which every user was scored.
    """

    run_date: date
    versions: Versions
    top_n: int
    basis: str
    full_night: date


def describe_basis(
    model: str,
    n: int,
    events: Sequence[str],
    popularity: npt.NDArray[np.float32],
    known_items: int,
    words: Neighbors | None,
    search: str = "",
) -> str:
    """A hash of what the model's part of all lists depends on, beside the users' histories.

    Args:
        model: name and version in the registry.
        n: length of the lists.
        events: columns of histories that the model looks at.
        popularity: float32 [items + 1], the catalogue of today; an item with 0 is no candidate.
        known_items: largest item_idx that the model has learned.
        words: of all items, for a model that knows new ones by them.
        search: what approximate lists depend on besides; of exact ones nothing.
    """
    parts = [model, str(n), *events, *([search] if search else [])]
    made = hashlib.sha256("\n".join(parts).encode())
    rankable = popularity if words is not None else popularity[: known_items + 1]
    made.update(np.packbits(rankable > 0).tobytes())
    for part in words or ():
        made.update(np.ascontiguousarray(part).tobytes())
    return made.hexdigest()


def reason_to_score_all(
    lake: Lake, earlier: ScoredNight | None, basis: str, run_date: date
) -> str | None:
    """Why no list may be carried over from an earlier night; None: lists may."""
    every = lake.settings.score.full_every_days
    if every == 1:
        return "score.full_every_days=1"
    if earlier is None:
        return "no earlier night"
    if earlier.basis != basis:
        return "model, candidates or settings are others than before"
    if (run_date - earlier.full_night).days >= every:
        return f"the last full night was {earlier.full_night}"
    needed = (
        (schemas.GOLD_TOP_N, earlier.top_n),
        (schemas.GOLD_SEQUENCES, earlier.versions.sequences),
        (schemas.SILVER_USERS, earlier.versions.users),
    )
    for table, version in needed:
        if not lake.can_read(table, version):
            return f"{table.name} of {earlier.run_date} is gone"
    return None


def find_unchanged(users: DataFrame, before: DataFrame) -> DataFrame:
    """``user_id`` of those whose rows are the same in both frames.

    Args:
        users: of tonight: ``user_id`` and what lists depend on.
        before: the same columns of the earlier night.
    """
    now = users.select(schemas.USER_ID, _hash(users).alias("now"))
    was = before.select(schemas.USER_ID, _hash(before).alias("was"))
    both = now.join(was, schemas.USER_ID)
    return both.where(F.col("now") == F.col("was")).select(schemas.USER_ID)


def carry_lists(lake: Lake, earlier: ScoredNight, unchanged: DataFrame, n: int) -> DataFrame:
    """``user_id`` and ``recommendations`` of unchanged users whose list is the model's alone."""
    entries = F.col(schemas.RECOMMENDATIONS)
    whole = (F.size(entries) == n) & F.forall(
        entries, lambda e: e[schemas.REASON] == schemas.MODEL_REASON
    )
    return (
        lake.read(schemas.GOLD_TOP_N, earlier.top_n)
        .where((F.col(schemas.RUN_DATE) == F.lit(earlier.run_date)) & whole)
        .select(schemas.USER_ID, schemas.RECOMMENDATIONS)
        .join(unchanged, schemas.USER_ID, "left_semi")
    )


def _hash(rows: DataFrame) -> Column:
    """Of all columns but the id; hashes run on from array to array, so sizes tell their ends."""
    names = [name for name in rows.columns if name != schemas.USER_ID]
    sizes = [F.size(name) for name, kind in rows.dtypes if kind.startswith("array")]
    return F.xxhash64(*names, *sizes)
