"""What rules add to the steps that make and compare lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import date

from recsys import schemas
from recsys.config import Evaluate
from recsys.lake.rule_tables import describe_state
from recsys.ranking.metrics import Interval, bootstrap_difference
from recsys.ranking.rules import ListRules
from recsys.score.evaluation import Cases, Report
from recsys.score.rules import NightRules, RuleTables, read_rules
from recsys.steps.context import Context

WITHOUT_RULES = "without_rules"


def rules_state(context: Context) -> str:
    """What lists depend on beside the model: nothing where no rule is on."""
    rules = context.settings.rules
    if not rules.enabled:
        return ""
    return "\n".join(
        [rules.model_dump_json(), describe_state(context.lake, rules, context.run_date)]
    )


def read_night_rules(context: Context, today: date | None = None) -> NightRules | None:
    """The night's rules, from the tables that its silver wrote.

    Args:
        today: as for ``read_rules``.
    """
    return read_rules(context.lake, _tables(context), context.run_date, today)


def add_rules(context: Context, cases: Cases, last: date) -> tuple[ListRules | None, Cases]:
    """The night's rules as lists of the night ``last`` would obey them, and cases with groups."""
    night = read_night_rules(context, today=last)
    if night is None:
        return None, cases
    groups = night.find_groups(context.lake, cases.user_idx, _tables(context))
    return night.arrays, dataclasses.replace(cases, groups=groups)


def _tables(context: Context) -> RuleTables:
    items = context.written("build_silver", schemas.SILVER_ITEMS)
    users = context.written("build_silver", schemas.SILVER_USERS)
    return RuleTables(items, users, context.attributes_version())


def measure_price(reports: Sequence[Report], evaluate: Evaluate) -> Interval | None:
    """What the rules cost of each user's NDCG@10, with a paired interval; None without rules."""
    by_name = {report.name: report.per_user for report in reports}
    if WITHOUT_RULES not in by_name:
        return None
    return bootstrap_difference(
        by_name[WITHOUT_RULES], by_name["model"], evaluate.bootstrap_samples, seed=1
    )
