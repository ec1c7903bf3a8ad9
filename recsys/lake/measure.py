"""What a check needs of a table, as aggregates; all checks of a table share one pass."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F

from recsys.checks import (
    Check,
    Dense,
    Fresh,
    Mix,
    RowRule,
    Rows,
    RowShareRise,
    ShareRise,
    TableChecks,
    Unique,
    Volume,
)
from recsys.lake import judge
from recsys.lake.judge import ROWS, Past, Verdict

_KEYS_A_SLICE = 1 << 17
"""So many keys are compared; the chance that two of them share a 64-bit hash is 5e-10."""
_GROUP = "_group"
_COUNTED = (_ROWS, _FIGURES) = ("_rows", "_figures")


@dataclass
class Measurement:
    """The checks of one table in one night.

    Attributes:
        rows: the table at the version to look at.
        figures: what the stage has counted.
        past: by check, its results in the last weeks' nights, oldest first.
    """

    declared: TableChecks
    rows: DataFrame
    run_date: date
    figures: Mapping[str, int]
    past: Mapping[str, Sequence[Past]] = field(default_factory=dict)
    _groups: list[dict[str, Any]] = field(default_factory=list, init=False)

    def query(self) -> DataFrame:
        """One row a group of the night's rows: group, rows, and the figures of all checks."""
        figures = F.array(*[column.cast("bigint") for column in self._figure_columns.values()])
        counted = [F.count(F.lit(1)).alias(_ROWS), figures.alias(_FIGURES)]
        group = self.declared.group
        own = self._own
        if group:
            measured = own.groupBy(F.col(group).alias(_GROUP)).agg(*counted)
        else:
            measured = own.agg(F.lit("").alias(_GROUP), *counted)
        # As text after the groups are made: not once a row.
        return measured.select(F.col(_GROUP).cast("string").alias(_GROUP), *_COUNTED)

    def judge_all(self, found: Sequence[Row]) -> list[tuple[Check, Verdict]]:
        """Judge every check, in the order they are declared, by the query's rows."""
        self._groups = sorted(
            (
                {
                    _GROUP: row[_GROUP],
                    _ROWS: row[_ROWS],
                    **dict(zip(self._figure_columns, row[_FIGURES], strict=True)),
                }
                for row in found
            ),
            key=lambda group: str(group[_GROUP]),
        )
        return [(check, self._judge(check)) for check in self.declared.checks]

    @functools.cached_property
    def _own(self) -> DataFrame:
        night = self.declared.night
        if conditions := self.declared.night_rows:
            parts = [self.rows.where(text.format(night=self.run_date)) for text in conditions]
            return functools.reduce(DataFrame.unionAll, parts)
        return self.rows.where(F.col(night) == F.lit(self.run_date)) if night else self.rows

    @functools.cached_property
    def _figure_columns(self) -> dict[str, Column]:
        return {
            f"{check.name} {figure}": column
            for check in self.declared.checks
            for figure, column in self._columns(check).items()
        }

    def _columns(self, check: Check) -> dict[str, Column]:
        match check:
            case RowRule():
                return {"broken": _count(F.expr(f"not ({check.holds})"), unknown=True)}
            case RowShareRise():
                return {"part": _count(F.expr(check.meets))}
            case Dense():
                number = F.col(check.column).cast("bigint")
                return {"low": F.min(number), "high": F.max(number), "sum": F.try_sum(number)}
            case Fresh():
                return {"newest": F.unix_micros(F.max(check.column))}
            case Volume():
                return {"rows": _count(F.col(check.column) == F.lit(self.run_date))}
            case Mix():
                return {word: _count(F.col(check.column) == word) for word in check.values}
            case Unique():
                return self._key_columns(check)
        return {}

    def _judge(self, check: Check) -> Verdict:
        past = self.past.get(check.name, ())
        match check:
            case Rows():
                return judge.judge_rows(self._rows, self.figures[check.figure])
            case RowRule():
                return judge.judge_rule(check, self._sum(check, "broken"), self._rows)
            case Unique():
                return self._judge_unique(check)
            case Dense():
                return self._judge_dense(check)
            case Fresh():
                micros = [group[f"{check.name} newest"] or 0 for group in self._groups]
                newest = datetime.fromtimestamp(max(micros, default=0) / 1e6, UTC)
                return judge.judge_fresh(check, newest if any(micros) else None, self.run_date)
            case Volume():
                return judge.judge_volume(check, self._sum(check, "rows"), past, self.run_date)
            case Mix():
                counts = {word: self._sum(check, word) for word in check.values}
                return judge.judge_mix(check, counts, past)
            case ShareRise():
                part, whole = self.figures[check.part], self.figures[check.whole]
                return judge.judge_share(check, part, whole, past)
            case RowShareRise():
                return judge.judge_share(check, self._sum(check, "part"), self._rows, past)

    @property
    def _rows(self) -> int:
        return sum(row[_ROWS] for row in self._groups)

    def _sum(self, check: Check, figure: str) -> int:
        return sum(row[f"{check.name} {figure}"] for row in self._groups)

    def _judge_dense(self, check: Dense) -> Verdict:
        names = [f"{check.name} {figure}" for figure in ("low", "high", "sum")]
        groups = [(row[_GROUP], row[_ROWS], *(row[n] for n in names)) for row in self._groups]
        return judge.judge_dense(groups, check.column)

    # Keys.

    def _key(self, check: Unique) -> list[str]:
        return list(check.columns or self.declared.table.key)

    def _slices(self, check: Unique) -> int:
        """As many as the rows of the night before, or those of this one that are known, need."""
        before = [night.figures.get(ROWS, 0) for night in self.past.get(check.name, ())[-1:]]
        most = max([*before, self.figures.get(check.about, 0)])
        return max(1, math.ceil(most / _KEYS_A_SLICE))

    def _slice(self, check: Unique) -> Column:
        slices = self._slices(check)
        place = F.pmod(F.xxhash64(*self._key(check)), F.lit(slices))
        return place == self.run_date.toordinal() % slices

    def _key_columns(self, check: Unique) -> dict[str, Column]:
        chosen = self._slice(check)
        hashed = F.when(chosen, F.xxhash64(*self._key(check)))
        return {"looked at": F.count_if(chosen), "different": F.count_distinct(hashed)}

    def _judge_unique(self, check: Unique) -> Verdict:
        rows = self._rows
        looked_at, different = (self._sum(check, n) for n in ("looked at", "different"))
        compared = [self._own]
        if check.within and self._groups:
            first = self._groups[0]
            whole = self.rows.where(F.col(check.within).cast("string") == first[_GROUP])
            keys = self._key_columns(check).values()
            found = whole.agg(F.count(F.lit(1)), *keys).collect()[0]
            rows += found[0] - first[_ROWS]
            looked_at += found[1] - first[f"{check.name} looked at"]
            different += found[2] - first[f"{check.name} different"]
            compared.append(whole)
        repeated = looked_at - different
        example = self._find_repeated(check, compared) if repeated else ""
        slices = self._slices(check)
        return judge.judge_unique(repeated, rows, looked_at, slices, example)

    def _find_repeated(self, check: Unique, compared: Sequence[DataFrame]) -> str:
        key = self._key(check)
        for rows in compared:
            again = rows.where(self._slice(check)).groupBy(*key).count().where("count > 1")
            if first := again.orderBy(*key).first():
                return ", ".join(f"{name} {first[name]}" for name in key)
        return ""


def _count(condition: Column, unknown: bool = False) -> Column:
    """Rows that meet a condition; ``unknown`` says what a null means."""
    return F.count_if(F.coalesce(condition, F.lit(unknown)))
