"""Steps of the lists: score_users, publish."""

from __future__ import annotations

from datetime import date

from recsys import schemas
from recsys.checks import RED
from recsys.errors import PublishError
from recsys.lake.operations import read_earlier
from recsys.lake.publish import Published, publish
from recsys.lake.quality import read_checks
from recsys.score.carry import ScoredNight
from recsys.score.checks import check_lists
from recsys.score.job import score_users
from recsys.score.users import Versions
from recsys.steps.context import Context, Outcome, Step
from recsys.steps.list_gate import judge_night
from recsys.steps.rules import read_night_rules, rules_state
from recsys.steps.tracking import open_tracking

_RED = f"checks {RED}"
_BASIS, _FULL_NIGHT = "basis", "full_night"


def versions_of(context: Context) -> Versions:
    """What the night is scored with."""
    return Versions(
        sequences=context.written("build_gold", schemas.GOLD_SEQUENCES),
        users=context.written("build_silver", schemas.SILVER_USERS),
        items=context.written("build_silver", schemas.SILVER_ITEMS),
        item_stats=context.written("build_gold", schemas.GOLD_ITEM_STATS),
        user_attributes=context.attributes_version(),
    )


def _score_users(context: Context) -> Outcome:
    model_version = context.done("evaluate").details["champion_version"]
    bundle = open_tracking(context.settings).bundle_of(model_version)
    versions = versions_of(context)
    rules = read_night_rules(context)
    if rules is not None:
        context.say(f"  {rules.said}")
    scored = score_users(
        context.lake,
        bundle,
        model_version,
        versions,
        context.run_date,
        context.say,
        _find_earlier(context),
        rules,
    )
    top_n = scored.commit.version
    lists = check_lists(context.lake, top_n, versions, context.run_date, rules)
    results = judge_night(context, _night(context, top_n, model_version, scored.commit.rows))
    return Outcome(
        f"{lists:,} lists by model version {model_version}, checked",
        rows_in=lists,
        rows_out=scored.commit.rows,
        details={
            "model_version": model_version,
            _BASIS: scored.basis,
            _FULL_NIGHT: str(scored.full_night),
            "carried": str(scored.carried),
            **scored.search.details,
            **({} if rules is None else {"rules": rules.said}),
        },
        tables_read={
            **context.done("build_gold").tables_written,
            **context.done("build_silver").tables_written,
        },
        tables_written={schemas.GOLD_TOP_N.name: top_n},
        results=results,
    )


def _find_earlier(context: Context) -> ScoredNight | None:
    """The newest night before this one whose lists can be carried over."""
    nights = read_earlier(context.lake, context.run_date, ["score_users"])
    if not nights or _BASIS not in nights[-1].details:
        return None
    night = nights[-1]
    tables = (
        schemas.GOLD_SEQUENCES,
        schemas.SILVER_USERS,
        schemas.SILVER_ITEMS,
        schemas.GOLD_ITEM_STATS,
        schemas.SILVER_USER_ATTRIBUTES,
    )
    # A version that was removed when users were erased is not there any more: -1 can't be read.
    versions = Versions(*(night.tables_read.get(table.name, -1) for table in tables))
    return ScoredNight(
        night.run_date,
        versions,
        night.tables_written.get(schemas.GOLD_TOP_N.name, -1),
        night.details[_BASIS],
        date.fromisoformat(night.details[_FULL_NIGHT]),
    )


def _night(context: Context, top_n: int, model_version: str, lists: int) -> Published:
    versions = versions_of(context)
    return Published(
        context.run_date,
        top_n,
        context.settings.tracking.model_name,
        model_version,
        versions.users,
        versions.items,
        lists,
    )


def _publish(context: Context) -> Outcome:
    require_no_red(context)
    scored = context.done("score_users")
    top_n = scored.tables_written[schemas.GOLD_TOP_N.name]
    night = _night(context, top_n, scored.details["model_version"], scored.rows_out)
    version = publish(context.lake, night)
    return Outcome(
        f"{night.lists:,} lists are live",
        rows_in=night.lists,
        rows_out=night.lists,
        tables_read=scored.tables_written,
        tables_written={schemas.OPS_PUBLISHED.name: version},
    )


def require_no_red(context: Context) -> None:
    """Let the night be published only where none of its quality checks is red.

    Raises:
        PublishError: a check is red, and ``quality.block_publish`` is on.
    """
    red = [check for check in read_checks(context.lake, context.run_date) if check.status == RED]
    stages = {stage for stage, run in context.runs.items() if int(run.details.get(_RED, 0))}
    lost = sorted(stages - {check.stage for check in red})
    if not red and not lost:
        return
    if not context.settings.quality.block_publish:
        context.say("  red quality checks, published all the same (quality.block_publish=off)")
        return
    if not red:
        raise PublishError(
            f"a quality check of {lost[0]} was red, and what it found was lost",
            do=f"recsys {lost[0].replace('_', '-')} --date {context.run_date} --force",
        )
    first = red[0]
    others = f" (and {len(red) - 1} more)" if len(red) > 1 else ""
    raise PublishError(
        f"a quality check is red{others}: {first}",
        where=f"{context.settings.lake.root}/{first.table} version {first.table_version}",
        do=f"look at `recsys checks --date {context.run_date}`, mend the cause and run the night "
        "again; if the data is right, publish it with quality.block_publish=off. The lists "
        "published before stay live",
    )


SCORE_USERS = Step(
    "score_users", ("score", "evaluate", "gate"), "evaluate", _score_users, rules_state,
    python_daemon="recsys.score.daemon",
)  # fmt: skip
PUBLISH = Step("publish", (), "score_users", _publish)
