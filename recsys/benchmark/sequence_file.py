"""Published sequence sets: a user a line, `user item item …`, oldest first, and no times."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recsys.errors import InputError

IntArray = npt.NDArray[np.int64]
_FORM = "each line must be: user item item ..., separated by spaces"


@dataclass(frozen=True)
class SequenceSet:
    """What a file holds.

    Attributes:
        item_ids: as the file writes them, by item_idx; entry 0 is padding.
        sequences: item_idx of each user, oldest first; one user at least.
    """

    item_ids: list[str]
    sequences: list[IntArray]

    @property
    def num_items(self) -> int:
        """The largest item_idx: items of the file."""
        return len(self.item_ids) - 1


def read_sequences(path: str | Path) -> SequenceSet:
    """Read a file; items get their indices in the order of their ids (numbers as numbers).

    Raises:
        InputError: the file is missing, empty, not text, or a line is not of the form; it names
            the line.
    """
    users: dict[str, list[str]] = {}
    for number, line in enumerate(_read(Path(path)).splitlines(), start=1):
        if not line.strip():
            continue
        user, *items = line.split()
        if not items:
            raise InputError(f"user {user!r} has no items", where=f"{path}:{number}", do=_FORM)
        if user in users:
            raise InputError(f"user {user!r} a second time", where=f"{path}:{number}", do=_FORM)
        users[user] = items
    if not users:
        raise InputError("the file has no sequences", where=str(path), do=_FORM)
    ids = sorted({item for items in users.values() for item in items}, key=_order)
    index = {item: number for number, item in enumerate(ids, start=1)}
    sequences = [np.array([index[item] for item in items]) for items in users.values()]
    return SequenceSet(["", *ids], sequences)


def read_attributes(path: str | Path, item_ids: Sequence[str]) -> list[IntArray]:
    """Attribute indices (from 0) of each item, by item_idx; entry 0 and unknown items have none.

    The file is a JSON object: item id to a list of attribute ids.

    Raises:
        InputError: the file is missing or not of the form, or knows none of the items.
    """
    text = _read(Path(path))
    form = 'it must be a JSON object: {"item": [attribute, attribute, ...], ...}'
    try:
        found = json.loads(text)
        lists = {str(item): [str(value) for value in values] for item, values in found.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"attributes can't be read: {error}", where=str(path), do=form) from None
    known = [lists.get(item, []) for item in item_ids]
    if not any(known):
        raise InputError("attributes of none of the items", where=str(path), do=form)
    ids = sorted({value for values in known for value in values}, key=_order)
    index = {value: number for number, value in enumerate(ids)}
    return [np.unique(np.array([index[v] for v in values], dtype=np.int64)) for values in known]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError("no such file", where=str(path), do="give the path of a file") from None
    except IsADirectoryError:
        raise InputError("a folder, not a file", where=str(path), do="name one file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"not a text file: {error}", where=str(path), do=_FORM) from None
    except OSError as error:
        raise InputError(f"can't be read: {error.strerror}", where=str(path)) from None


def _order(token: str) -> tuple[int, int, str]:
    return (0, int(token), token) if token.isdecimal() else (1, 0, token)
