"""Conditions on what is known of items: whose value is what a rule asks for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Value: TypeAlias = bool | float | date | str
"""What a text is read as before it is compared; ints are floats."""

ELEMENT = "\x1f"
"""Between the elements of a value that was an array."""

_WORDS = re.compile(r"[\s|,;]+")
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_NUMBER = r"-?[\d.]+(?:e[+-]?\d+)?"
_BAND = re.compile(rf"({_NUMBER})(?:-{_NUMBER}|\+)")


class Coded(NamedTuple):
    """A column of texts by item index, each different one held once.

    Attributes:
        codes: int32 [items + 1]; 0 is a missing value.
        texts: the different ones; code 1 is the first.
    """

    codes: npt.NDArray[np.int32]
    texts: tuple[str, ...]


def encode(values: Sequence[str | None]) -> Coded:
    """Values by item index, the first of padding; an empty text is a missing value."""
    number: dict[str, int] = {}
    stripped = [None if value is None else value.strip() for value in values]
    for value in stripped:
        if value:
            number.setdefault(value, len(number) + 1)
    codes = np.array([number[value] if value else 0 for value in stripped], dtype=np.int32)
    return Coded(codes, tuple(number))


def find_holding(
    texts: Sequence[str], op: str, operand: Value | Sequence[Value], missing: bool
) -> npt.NDArray[np.bool_]:
    """Of which values a condition holds, bool [texts + 1] by code.

    Args:
        texts: the different values of a column.
        op: as in ``config.Filter``.
        operand: what they are compared with; the list of ``in`` and ``not_in``.
        missing: what holds of code 0, and of a text that is not of the operand's kind.
    """
    first: Any = operand[0] if isinstance(operand, (list, tuple)) else operand
    read, compare = _READERS[_kind_of(first)], _COMPARE[op]
    found = [missing]
    for text in texts:
        value = text if op.endswith("contains") else read(text)
        found.append(missing if value is None else compare(value, operand))
    return np.array(found, dtype=bool)


def lower_end(text: str) -> float | None:
    """The number that a user's value stands for, or the lower end of its band.

    ``18-25`` and ``18+`` are 18. ``<18`` is 0, as of an age; with an end that is not above 0 it is
    below every number. None where a text is neither.
    """
    if text.startswith("<"):
        end = _read_number(text[1:])
        return None if end is None else (0.0 if end > 0 else -math.inf)
    band = _BAND.fullmatch(text)
    return _read_number(band[1] if band else text)


def _kind_of(value: Value) -> type:
    # A truth value is a number to Python.
    return next(kind for kind in (bool, date, str, object) if isinstance(value, kind))


def _read_number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return None if math.isnan(value) else value


def _read_date(text: str) -> date | None:
    """Of a time its date counts."""
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        return None


_READERS: Mapping[type, Callable[[str], Value | None]] = {
    bool: lambda text: _TRUTH.get(text.lower()),
    date: _read_date,
    str: lambda text: text,
    object: _read_number,
}


def _contains(value: str, word: str) -> bool:
    return word in (value.split(ELEMENT) if ELEMENT in value else _WORDS.split(value))


_COMPARE: Mapping[str, Callable[..., bool]] = {
    "equals": lambda value, wanted: value == wanted,
    "not_equals": lambda value, wanted: value != wanted,
    "in": lambda value, wanted: value in wanted,
    "not_in": lambda value, wanted: value not in wanted,
    "at_least": lambda value, wanted: value >= wanted,
    "at_most": lambda value, wanted: value <= wanted,
    "contains": _contains,
    "not_contains": lambda value, word: not _contains(value, word),
}
