"""Bringing the tables of an older version of this project up to this one, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from recsys import schemas
from recsys.errors import LakeError
from recsys.lake.local import local_frame
from recsys.lake.operations import SCHEMA_VERSION_FACT, read_schema_version
from recsys.lake.tables import Lake


@dataclass(frozen=True)
class Migration:
    """A step to ``version`` from the one before; it can be repeated after a kill."""

    version: int
    what: str
    run: Callable[[Lake], None]


def _empty_gold_of_version_1(lake: Lake) -> None:
    """Gold is made of silver, so the next build_gold fills the tables of the new shape again.

    What the old versions held can still be read by version: live lists lose nothing.
    """
    for table in (
        schemas.GOLD_SEQUENCES,
        schemas.GOLD_TRAINING_SEQUENCES,
        schemas.GOLD_RATINGS,
        schemas.GOLD_ITEM_STATS,
    ):
        if lake.exists(table) and lake.read(table).columns != table.names:
            lake.reshape(table)


def _empty_holdout_of_version_2(lake: Lake) -> None:
    """Each night writes the whole table again, so the next build_gold fills it."""
    table = schemas.GOLD_HOLDOUT
    if lake.exists(table) and lake.read(table).columns != table.names:
        lake.reshape(table)


MIGRATIONS = (
    Migration(
        2,
        "gold/sequences, training_sequences, ratings and item_stats get the columns that let a "
        "night go on from the one before; the next build_gold fills them from silver",
        _empty_gold_of_version_1,
    ),
    Migration(
        3,
        "gold/holdout gets the times and types of events; the next build_gold fills it",
        _empty_holdout_of_version_2,
    ),
)


def pending(lake: Lake) -> list[Migration]:
    """The steps that the lake still needs, in order.

    Raises:
        LakeError: the lake is not there.
    """
    found = read_schema_version(lake)
    if found is None:
        raise LakeError(
            "there is no lake to migrate",
            where=lake.path(schemas.OPS_LAKE),
            do="check --lake (lake.root)",
        )
    return [step for step in MIGRATIONS if step.version > found]


def migrate(lake: Lake, step: Migration) -> None:
    """Run a step and note it in ops/lake, last: a step that was cut off is done again."""
    step.run(lake)
    fact = local_frame(lake.spark, [(SCHEMA_VERSION_FACT, str(step.version))], schemas.OPS_LAKE.ddl)
    lake.replace(schemas.OPS_LAKE, fact, f"{schemas.KEY} = '{SCHEMA_VERSION_FACT}'")
