"""What every kind of target can do, and the one order in which it is done."""

from __future__ import annotations

from typing import Protocol

from recsys.errors import ExportError
from recsys.export.lists import Lists


class Store(Protocol):
    """Versions of lists, and a pointer to the one that readers follow.

    Every method may be called again after it was cut off. All raise ``ExportError``.
    """

    place: str
    """Where it is, for messages; without a secret."""

    def current(self) -> str | None:
        """The version that the pointer names; ``None``: there is none yet."""

    def count(self, version: str) -> int:
        """Lists of a version that are there."""

    def write(self, lists: Lists) -> None:
        """Put lists under their version; what is there of it already stays or is replaced."""

    def make_current(self, lists: Lists) -> None:
        """Move the pointer, in one step that readers see whole or not at all.

        Raises:
            ExportError: the version is not whole any more.
        """

    def versions(self) -> list[str]:
        """All versions of which anything is there."""

    def remove(self, version: str) -> None:
        """Remove a version; the current one stays."""


def export_lists(store: Store, lists: Lists, keep: int, force: bool = False) -> str:
    """Bring a target to a version of the lists; nothing is written where it has it already.

    Args:
        keep: versions that stay, the current one among them.
        force: count, and where something is missing write, what the pointer says is there.

    Returns:
        What was done, in words.

    Raises:
        ExportError: it failed; the pointer is where it was, unless the message says otherwise.
    """
    before = store.current()
    done = "there already"
    if before != lists.version or force:
        done = "put back" if before != lists.version else "counted again"
        if store.count(lists.version) != lists.count:
            store.write(lists)
            _require_all(store, lists)
            done = "written"
        store.make_current(lists)
    removed = _superfluous(store.versions(), lists.version, before, keep)
    try:
        for version in removed:
            store.remove(version)
    except ExportError as error:
        raise ExportError(
            f"the new lists are in force, but an old version can't be removed: {error.what}",
            where=error.where,
            do=error.do,
        ) from error
    return f"{done}, {len(removed)} old removed" if removed else done


def _require_all(store: Store, lists: Lists) -> None:
    found = store.count(lists.version)
    if found != lists.count:
        raise ExportError(
            f"{found:,} of {lists.count:,} lists are there after writing",
            where=f"{store.place}, version {lists.version}",
            do="run the export again, not two at once; a store that drops keys to make room for "
            "others (Redis: maxmemory-policy) can't hold lists",
        )


def _superfluous(there: list[str], current: str, before: str | None, keep: int) -> list[str]:
    """The version before stays longest: readers may just have read the pointer to it."""
    others = sorted(set(there) - {current}, reverse=True)
    others.sort(key=lambda version: version != before)
    return others[keep - 1 :]
