"""From what was measured in a table to green, yellow or red: arithmetic, no Spark.

Drift is judged beside the nights of the last weeks. Each limit has two parts: the declared one, and
what chance may do in so few rows, so that a small log does not ring every night.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from statistics import median

from recsys.checks import GREEN, RED, YELLOW, Fresh, Mix, RowRule, RowShareRise, ShareRise, Volume

HISTORY_DAYS = 28
"""How far back a night is compared."""
_ENOUGH_NIGHTS = 3
_SPREADS = 3
_CHANCE = 1e-6
ROWS = "rows"


@dataclass(frozen=True)
class Past:
    """The same check in an earlier night."""

    run_date: date
    value: float | None
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """The result of one check; ``limit`` says what is allowed, ``message`` what was found."""

    status: str
    value: float | None
    limit: str
    message: str
    figures: Mapping[str, float] = field(default_factory=dict)


def judge_rows(found: int, counted: int) -> Verdict:
    """The table holds what the stage says it wrote."""
    status = GREEN if found == counted else RED
    message = f"{found:,} rows, the stage counted {counted:,}"
    return Verdict(status, found, f"{counted:,}", message, {ROWS: found})


def judge_rule(rule: RowRule, broken: int, rows: int) -> Verdict:
    """Rows that break a rule."""
    share = broken / rows if rows else 0.0
    status = rule.severity if share > rule.allowed else GREEN
    limit = f"at most {rule.allowed:.2%} of rows" if rule.allowed else "no row"
    return Verdict(status, broken, limit, f"{broken:,} of {rows:,} rows break it")


def judge_unique(repeated: int, rows: int, looked_at: int, slices: int, example: str) -> Verdict:
    """Rows whose key another row has."""
    part = f"1 of {slices} slices, {looked_at:,} of {rows:,} rows" if slices > 1 else f"{rows:,}"
    message = f"{repeated:,} of {part} repeat a key{f', e.g. {example}' if example else ''}"
    return Verdict(RED if repeated else GREEN, repeated, "no row", message, {ROWS: rows})


def judge_dense(groups: Sequence[tuple[str, int, int, int, int]], column: str) -> Verdict:
    """Numbers are 1..n in each group.

    Args:
        groups: name, rows, smallest, largest and sum of the numbers of each.
    """
    wrong = [
        name
        for name, rows, low, high, total in groups
        if rows and (low, high, total) != (1, rows, rows * (rows + 1) // 2)
    ]
    if not wrong:
        rows = sum(rows for _, rows, *_ in groups)
        return Verdict(GREEN, 0, "none", f"{rows:,} numbers from 1, each once")
    where = f" in {wrong[0]}" if wrong[0] else ""
    message = f"numbers of {column} lack, or are there twice{where}"
    return Verdict(RED, len(wrong), "none", message)


def judge_fresh(check: Fresh, newest: datetime | None, run_date: date) -> Verdict:
    """Hours from the newest moment to the end of the run date (UTC)."""
    limit = f"{check.yellow:g} h before the end of the date (red: {check.red:g} h)"
    if newest is None:
        message = "no new row: each record repeats a known one or was rejected"
        return Verdict(YELLOW, None, limit, message)
    end = datetime.combine(run_date + timedelta(days=1), time(), UTC)
    hours = (end - newest).total_seconds() / 3600
    status = _above(hours, check.yellow, check.red)
    return Verdict(status, hours, limit, f"the newest is of {newest:%Y-%m-%d %H:%M} UTC")


def judge_volume(check: Volume, rows: int, past: Sequence[Past], run_date: date) -> Verdict:
    """Rows of the run date beside the same weekday of the last weeks, or all their nights.

    Rows must be off by the declared factor, and by three spreads: the larger of what the nights
    themselves vary by (median absolute deviation, scaled to a normal's standard deviation) and of
    what a count varies by (its square root).
    """
    known = [night for night in past if night.value is not None]
    weekday = [night for night in known if night.run_date.weekday() == run_date.weekday()]
    chosen = weekday if len(weekday) >= _ENOUGH_NIGHTS else known
    values = [float(night.value or 0) for night in chosen]
    usual = median(values) if len(values) >= _ENOUGH_NIGHTS else 0.0
    if not usual:
        return _too_early(rows, f"{rows:,} rows of {run_date}")
    varies = 1.4826 * median(abs(value - usual) for value in values)
    spread = _SPREADS * max(varies, math.sqrt(usual))

    def is_off(factor: float) -> bool:
        beyond = rows <= usual / factor or rows >= usual * factor
        return beyond and abs(rows - usual) > spread

    status = RED if is_off(check.red) else YELLOW if is_off(check.yellow) else GREEN
    limit = (
        f"{min(usual / check.yellow, usual - spread):,.0f} to "
        f"{max(usual * check.yellow, usual + spread):,.0f} (red: factor {check.red:g})"
    )
    days = "this weekday" if chosen is weekday else "nights"
    message = f"{rows:,} rows of {run_date}, usual are {usual:,.0f} ({len(chosen)} {days})"
    return Verdict(status, rows, limit, message)


def judge_mix(check: Mix, counts: Mapping[str, int], past: Sequence[Past]) -> Verdict:
    """Total variation distance to the mean mix of the last weeks.

    What chance may add comes on top of the limits: the mean distance of two samples of one mix
    (half the sum of the shares' mean absolute errors, bounded by their standard deviations), and a
    deviation that one row in n, changing the distance by 1/n, exceeds with a chance of 1e-6
    (McDiarmid, On the method of bounded differences, 1989).
    """
    rows = sum(counts.values())
    shares = {word: n / rows if rows else 0.0 for word, n in counts.items()}
    figures = {**shares, ROWS: float(rows)}
    nights = [night.figures for night in past if night.figures.get(ROWS)]
    if not rows:
        return Verdict(GREEN, None, "", "no row, nothing to compare", figures)
    if len(nights) < _ENOUGH_NIGHTS:
        return _too_early(0.0, ", ".join(f"{w} {s:.1%}" for w, s in shares.items()), figures)
    usual = {word: sum(n.get(word, 0.0) for n in nights) / len(nights) for word in check.values}
    distance = sum(abs(shares[word] - usual[word]) for word in check.values) / 2
    size = 1 / rows + 1 / sum(night[ROWS] for night in nights)
    chance = sum(math.sqrt(p * (1 - p) * size) for p in usual.values()) / 2
    chance += math.sqrt(-math.log(_CHANCE) / (2 * rows))
    status = _above(distance, check.yellow + chance, check.red + chance)
    limit = f"{check.yellow + chance:.3f} (red: {check.red + chance:.3f})"
    most = max(check.values, key=lambda word: abs(shares[word] - usual[word]))
    message = f"distance {distance:.3f}; {most} {shares[most]:.1%}, usual are {usual[most]:.1%}"
    return Verdict(status, distance, limit, message, figures)


def judge_share(
    check: ShareRise | RowShareRise, part: int, whole: int, past: Sequence[Past]
) -> Verdict:
    """A share that rose above its median of the last weeks; three standard errors come on top."""
    if not whole:
        return Verdict(GREEN, None, "", "no row, nothing to compare")
    share = part / whole
    values = [night.value for night in past if night.value is not None]
    if len(values) < _ENOUGH_NIGHTS:
        return _too_early(share, f"{share:.2%} of {whole:,}")
    usual = median(values)
    error = _SPREADS * math.sqrt(max(usual * (1 - usual), 1 / whole) / whole)
    yellow, red = usual + check.yellow + error, usual + check.red + error
    limit = f"{yellow:.2%} (red: {red:.2%})"
    message = f"{share:.2%} of {whole:,}, usual are {usual:.2%} ({len(values)} nights)"
    return Verdict(_above(share, yellow, red), share, limit, message)


def _above(value: float, yellow: float, red: float) -> str:
    return RED if value > red else YELLOW if value > yellow else GREEN


def _too_early(value: float, found: str, figures: Mapping[str, float] | None = None) -> Verdict:
    limit = f"compared once {_ENOUGH_NIGHTS} nights of the last {HISTORY_DAYS} days are known"
    return Verdict(GREEN, value, limit, found, figures or {})
