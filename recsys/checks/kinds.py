"""The kinds of checks: what each compares, and how bad it is if it fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recsys.schemas import Table

GREEN = "green"
YELLOW = "yellow"
RED = "red"
STATUSES = (GREEN, YELLOW, RED)


@dataclass(frozen=True)
class RowRule:
    """A condition that each row must meet; a null condition is not met.

    Attributes:
        name: of the check, in words.
        holds: Spark SQL, true for a good row.
        severity: of more broken rows than allowed.
        allowed: share of rows that may break it.
    """

    name: str
    holds: str
    severity: str = RED
    allowed: float = 0.0


def not_null(*columns: str) -> RowRule:
    """Each of the columns has a value."""
    return RowRule(
        f"not null {', '.join(columns)}", " and ".join(f"`{c}` is not null" for c in columns)
    )


def between(column: str, low: float, high: float | None = None) -> RowRule:
    """A number within bounds, both included; nulls may be there."""
    upper = "" if high is None else f" and `{column}` <= {high}"
    bounds = f"at least {low:g}" if high is None else f"{low:g} to {high:g}"
    # NaN is greater than any number to Spark.
    holds = f"(`{column}` is null or (`{column}` >= {low}{upper} and not isnan(`{column}`)))"
    return RowRule(f"{column} {bounds}", holds)


def one_of(column: str, values: Sequence[str]) -> RowRule:
    """One of some words, never null."""
    listed = ", ".join(f"'{value}'" for value in values)
    return RowRule(f"{column} one of {', '.join(values)}", f"`{column}` in ({listed})")


def same_length(*columns: str) -> RowRule:
    """Arrays side by side have one length in each row."""
    first, *others = columns
    holds = " and ".join(f"size(`{first}`) = size(`{other}`)" for other in others)
    return RowRule(f"same length {', '.join(columns)}", holds)


@dataclass(frozen=True)
class Rows:
    """The night's rows are as many as the stage has counted."""

    figure: str
    name: str = "rows as counted"


@dataclass(frozen=True)
class Unique:
    """No two rows have one key.

    Of many keys a slice is looked at, by hash, another one each night: what is doubled by a mistake
    in a join or a write is doubled in each slice.

    Attributes:
        about: the stage's figure that says how many keys there are, or how many are new.
        within: column (the one that the table's checks are grouped by) of which the night's lowest
            value is looked at with the rows of all nights; without it a night's rows are compared
            with each other alone. Mostly that is a day which no later night adds to.
        columns: of the key; empty: the table's key.
    """

    about: str
    within: str | None = None
    columns: tuple[str, ...] = ()
    name: str = "unique key"


@dataclass(frozen=True)
class Dense:
    """Numbers from 1 to the count of rows, each once (within each group of the table's checks)."""

    column: str

    @property
    def name(self) -> str:
        return f"{self.column} is 1..n"


@dataclass(frozen=True)
class Fresh:
    """The night's newest moment is not long before the end of the run date; limits in hours."""

    column: str
    yellow: float
    red: float
    name: str = "freshness"


@dataclass(frozen=True)
class Volume:
    """Rows of the run date beside the last weeks; limits are factors up and down."""

    column: str
    yellow: float
    red: float
    name: str = "volume"


@dataclass(frozen=True)
class Mix:
    """Shares of words beside the last weeks.

    Limits are total variation distances: the share of rows that would have to change their word.
    """

    column: str
    values: tuple[str, ...]
    yellow: float
    red: float

    @property
    def name(self) -> str:
        return f"mix of {self.column}"


@dataclass(frozen=True)
class ShareRise:
    """A share that the stage has counted, beside the last weeks; limits are rises of the share."""

    part: str
    whole: str
    yellow: float
    red: float

    @property
    def name(self) -> str:
        return f"share of {self.part}"


@dataclass(frozen=True)
class RowShareRise:
    """The share of rows that meet a condition, beside the last weeks; limits are rises."""

    name: str
    meets: str
    yellow: float
    red: float


Check = (
    RowRule | Rows | Unique | Dense | Fresh | Volume | Mix | ShareRise | RowShareRise
)  # fmt: skip


@dataclass(frozen=True)
class TableChecks:
    """The checks of one table.

    Attributes:
        stage: after which they run.
        night: column that holds the run date in the night's rows; ``None``: all rows are looked at.
        night_rows: the night's rows as conditions of which a row meets one at most, where a column
            does not say; ``{night}`` is the run date. Each is read on its own: Delta skips files by
            a partition's value and by a column's, but not by one *or* the other.
        group: column by which they are measured (few values): what ``Dense`` and ``within`` need.
    """

    table: Table
    stage: str
    checks: tuple[Check, ...]
    night: str | None = None
    night_rows: tuple[str, ...] = ()
    group: str | None = None
