"""A partition that is replaced by several commits, so that a killed run goes on where it was.

Readers follow a version that is published later, so they never see a part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from pyspark.sql import DataFrame

from recsys.lake.added_files import NewFiles, add_files
from recsys.lake.commits import mark_of
from recsys.lake.tables import Commit, Lake
from recsys.schemas import Table

_WHERE, _KEY, _PART = "where", "key", "part"
_LOOK_BACK = 1000
"""Commits that may have come between the parts of one try."""


def replace_in_parts(
    lake: Lake,
    table: Table,
    parts: Sequence[Callable[[], DataFrame | NewFiles]],
    where: str,
    key: str,
    around: Callable[[int], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> Commit:
    """Replace the rows that match ``where`` by those of all parts, a commit each.

    What a try with the same key, of as many parts, has committed before it was cut off is not
    done again.

    Args:
        parts: make the rows, or files of the one partition that matches ``where``; no key is in
            two of them.
        where: as for ``Lake.replace``.
        key: of all that the rows depend on.
        around: entered while a part (from 0) is written.

    Raises:
        ConflictError: another run has written to the table meanwhile.
        LakeError: a write failed; the parts before stay.
    """
    version = lake.version(table)
    done = _count_done(lake, table, version, where, key) % len(parts)
    rows = 0
    for number in range(done, len(parts)):
        mark = {_WHERE: where, _KEY: key, _PART: str(number + 1)}
        after = None if len(parts) == 1 else version
        with around(number):
            new = parts[number]()
            if isinstance(new, NewFiles):
                commit = add_files(lake, table, new, replace=number == 0, mark=mark, after=after)
            elif number == 0:
                commit = lake.replace(table, new, where, mark=mark, after=after)
            else:
                commit = lake.append(table, new, mark, after=after)
        version, rows = commit.version, rows + commit.rows
    if done:
        rows = lake.read(table, version).where(where).count()
    return Commit(version, rows)


def _count_done(lake: Lake, table: Table, newest: int, where: str, key: str) -> int:
    """How many parts the newest try to replace these rows has committed, if it was of this key."""
    for version in range(newest, max(-1, newest - _LOOK_BACK), -1):
        try:
            mark = mark_of(lake.commit(table, version))
        except Exception:  # the log was shortened
            return 0
        if mark.get(_WHERE) == where:
            return int(mark[_PART]) if mark[_KEY] == key else 0
    return 0
