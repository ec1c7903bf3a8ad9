"""A night's lists beside the published ones: results for ops/checks, and a page for people."""

from __future__ import annotations

from collections.abc import Mapping

from recsys import schemas
from recsys.errors import TrackingError
from recsys.lake.publish import Published, published_before
from recsys.lake.quality import CheckResult, read_checks
from recsys.score.comparison import compare_lists
from recsys.score.gate import judge_lists
from recsys.score.report import ModelFigures, Page, render_page
from recsys.steps.context import Context
from recsys.steps.tracking import open_tracking


def judge_night(context: Context, night: Published) -> list[CheckResult]:
    """Compare, judge, and put the report beside the night's training run in MLflow."""
    lake, gate = context.lake, context.settings.gate
    before = published_before(lake, context.run_date)
    found = compare_lists(lake, night, before, gate.sample_users)
    results = judge_lists(found, gate, night.top_n_version)
    earlier = read_checks(lake, context.run_date)
    evaluated = context.done("evaluate").details
    page = Page(
        found,
        [*results, *(check for check in earlier if check.stage == "evaluate")],
        [check for check in earlier if check.stage not in ("evaluate", "score_users")],
        [_figures(name, evaluated) for name in evaluated.get("models", "").split()],
        evaluated["gate"],
        context.history.past.get(("score_users", schemas.GOLD_TOP_N.name), {}),
    )
    _keep_page(context, page)
    return results


def _keep_page(context: Context, page: Page) -> None:
    """A page that can't be kept costs no night: its figures are in ops/checks."""
    name, run_id = f"lists/{context.run_date}.html", context.done("train").details["run_id"]
    try:
        open_tracking(context.settings).log_report(run_id, name, render_page(page))
    except TrackingError as error:
        context.say(f"  the page on the lists is not kept: {error.what}")
    else:
        context.say(f"  the lists beside those published before: {name} of MLflow run {run_id}")


def _figures(name: str, details: Mapping[str, str]) -> ModelFigures:
    prefix = f"{name} "
    values = {
        key.removeprefix(prefix): value
        for key, value in details.items()
        if key.startswith(prefix) and "_at_" in key
    }
    return ModelFigures(name, values, details[f"{name} interval"])
