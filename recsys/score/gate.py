"""The gate between a night's lists and their readers: figures in, green, yellow or red out.

Arithmetic, no Spark. What is red stops ``publish``; the lists published before stay live.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

from recsys import schemas
from recsys.checks import GREEN, RED, YELLOW
from recsys.config import Gate
from recsys.lake.quality import CheckResult
from recsys.ranking import metrics
from recsys.ranking.exposure import population_stability
from recsys.score.comparison import Comparison
from recsys.score.evaluation import MAIN_METRIC, Report

LISTS = "number of lists"
COVERAGE = "catalogue coverage"
GINI = "Gini of exposure"
OVERLAP = "overlap with the published lists"
SCORES = "drift of scores"

_Limits = tuple[float, float] | None


def judge_lists(found: Comparison, gate: Gate, table_version: int) -> list[CheckResult]:
    """Compare a night's lists with those that readers have.

    Args:
        found: of both nights.
        gate: the limits.
        table_version: of gold/top_n, for the report.
    """
    now, before = found.now, found.before
    values = {
        LISTS: float(now.lists),
        COVERAGE: now.exposure.coverage,
        GINI: now.exposure.gini(),
    }

    def result(name: str, status: str, value: float, limit: str, message: str) -> CheckResult:
        return CheckResult(
            now.run_date, "score_users", schemas.GOLD_TOP_N.name, table_version,
            name, status, value, limit, message, {},
        )  # fmt: skip

    if before is None:
        first = "nothing was published before"
        return [result(name, GREEN, value, "", first) for name, value in values.items()]

    was = f"{before.run_date} has"
    judged = [
        (
            LISTS, gate.fewer_lists, 1 - now.lists / max(before.lists, 1), values[LISTS],
            "{:.1%} fewer", f"{now.lists:,}, {was} {before.lists:,}",
        ),
        (
            COVERAGE, gate.lower_coverage,
            1 - values[COVERAGE] / max(before.exposure.coverage, 1e-12), values[COVERAGE],
            "{:.0%} lower", f"{values[COVERAGE]:.1%}, {was} {before.exposure.coverage:.1%}",
        ),
        (
            GINI, gate.higher_gini, values[GINI] - before.exposure.gini(), values[GINI],
            "{:.2f} higher", f"{values[GINI]:.3f}, {was} {before.exposure.gini():.3f}",
        ),
    ]  # fmt: skip
    if len(found.overlaps):
        overlap = float(found.overlaps.mean())
        # The limits are of what is kept; what is compared is what is not.
        limits = gate.lower_overlap and (1 - gate.lower_overlap[0], 1 - gate.lower_overlap[1])
        judged.append(
            (
                OVERLAP, limits, 1 - overlap, overlap, "{:.0%} of the items replaced",
                f"{overlap:.1%} of the items of {len(found.overlaps):,} users' lists",
            )
        )  # fmt: skip
    results = [
        result(name, _judge(change, limits), value, _limit(limits, words), message)
        for name, limits, change, value, words, message in judged
    ]
    if now.model_version == before.model_version and len(found.scores_before):
        drift = population_stability(found.scores_before, found.scores_now)
        message = f"index {drift:.3f}, same model as {before.run_date}"
        status = _judge(drift, gate.score_drift)
        limit = _limit(gate.score_drift, "{:.2f}")
        results.append(result(SCORES, status, drift, limit, message))
    return results


def judge_rivals(
    chosen: Report,
    rivals: Mapping[str, tuple[Report, _Limits]],
    run_date: date,
    table_version: int,
    samples: int,
    is_first: bool = False,
) -> list[CheckResult]:
    """The model in charge beside what it must not be worse than, on the same users.

    Worse is what is beyond the limit and beyond chance: the 95% bootstrap interval of the mean
    difference lies below 0.

    Args:
        chosen: whose lists will be published.
        rivals: by name, with their limits as shares of their NDCG.
        table_version: of gold/holdout, for the report.
        samples: of the bootstrap.
        is_first: nothing was published before, so no older lists could stay live: what would be red
            is yellow.
    """
    results = []
    for name, (rival, limits) in rivals.items():
        mine, theirs = chosen.means[MAIN_METRIC], rival.means[MAIN_METRIC]
        differences = chosen.per_user - rival.per_user
        interval = metrics.bootstrap_interval(differences, samples, seed=1)
        below = (theirs - mine) / theirs if theirs > 0 else 0.0
        status = _judge(below, limits) if interval.high < 0 else GREEN
        status = YELLOW if is_first and status == RED else status
        results.append(
            CheckResult(
                run_date, "evaluate", schemas.GOLD_HOLDOUT.name, table_version,
                f"{MAIN_METRIC} beside {name}", status, mine, _limit(limits, "{:.0%} below"),
                f"{mine:.4f}, {name} {theirs:.4f}; difference {interval.mean:+.4f} "
                f"({interval.low:+.4f} to {interval.high:+.4f}, {len(differences):,} users)",
                {name: theirs},
            )
        )  # fmt: skip
    return results


def _judge(change: float, limits: _Limits) -> str:
    if limits is None:
        return GREEN
    yellow, red = limits
    return RED if change > red else YELLOW if change > yellow else GREEN


def _limit(limits: _Limits, words: str) -> str:
    if limits is None:
        return "not compared"
    yellow, red = (words.format(limit) for limit in limits)
    return f"at most {yellow} (red: {red})"
