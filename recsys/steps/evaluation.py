"""The step evaluate: the new model beside its rivals, and the gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from recsys import schemas
from recsys.bundle import load_ranker
from recsys.errors import TrackingError
from recsys.lake.baselines import train_als
from recsys.lake.item_links import read_neighbors
from recsys.lake.popularity import Popularity, read_popularity
from recsys.lake.publish import published_before
from recsys.lake.quality import CheckResult
from recsys.lake.sequences import holdout_cutoff
from recsys.ranking.metrics import Interval
from recsys.ranking.neighbors import group_links
from recsys.ranking.rules import ListRules
from recsys.score import evaluation
from recsys.score.attributes import describe_users, load_extended
from recsys.score.evaluation import Gate, Report
from recsys.score.gate import judge_rivals
from recsys.steps.context import Context, Outcome, Step
from recsys.steps.ranker import read_metrics
from recsys.steps.rules import WITHOUT_RULES, add_rules, measure_price, rules_state
from recsys.steps.tracking import open_tracking
from recsys.train.registry import ANCHOR, AliasedModel, ModelRegistry


def _evaluate(context: Context) -> Outcome:
    settings, lake, gold = context.settings, context.lake, context.done("build_gold")
    run_id = context.done("train").details["run_id"]
    cases = evaluation.load_cases(
        lake, gold.tables_written[schemas.GOLD_HOLDOUT.name], settings.evaluate
    )
    registry = open_tracking(settings)
    version = registry.register_model(run_id)
    champion, (anchor, has_anchor) = registry.champion(), _find_anchor(context, registry)
    # A night that was cut off after the promotion judges as it did then.
    again = champion is not None and champion.version == version
    rival = None if again else champion
    reports: list[Report] = []
    if len(cases.user_idx):
        reports = _compare(context, cases, _bundles(version, rival, anchor))
        by_name = {report.name: report for report in reports}
        gate = evaluation.judge(by_name["model"], by_name["popularity"], by_name.get("champion"))
        if again:
            gate = Gate(True, "is the champion already")
    else:
        gate = Gate(rival is None, "no held-out user to compare on")
    if gate.passed:
        registry.promote(version)
    chosen = version if gate.passed or rival is None else rival.version
    if not has_anchor:
        registry.promote(chosen, ANCHOR)
    price = measure_price(reports, settings.evaluate)
    details = _details(reports, gate, version, chosen, len(cases.user_idx), price)
    figures = {**_mlflow_metrics(reports), **read_metrics(context.done("train").details)}
    if price is not None:
        figures[f"rules_price_{evaluation.MAIN_METRIC}"] = price.mean
    registry.log_metrics(run_id, figures)
    registry.set_tags(run_id, {"gate": gate.reason, "champion_after": chosen})
    main = ", ".join(f"{r.name} {r.means[evaluation.MAIN_METRIC]:.4f}" for r in reports)
    cost = "" if price is None else f"; rules cost {price.mean:.4f}"
    return Outcome(
        f"NDCG@10 {main} ({len(cases.user_idx):,} users){cost}; "
        f"champion: version {chosen} ({gate.reason})",
        rows_in=len(cases.user_idx),
        details=details,
        tables_read=gold.tables_written,
        results=_judge_chosen(context, reports, chosen == version, anchor, rival),
    )


def _find_anchor(context: Context, registry: ModelRegistry) -> tuple[AliasedModel | None, bool]:
    """The anchor where it can be read, and whether there is one."""
    try:
        found = registry.anchor()
    except TrackingError as error:
        context.say(f"  the anchor is not compared: {error.what}")
        return None, True
    return found, found is not None


def _bundles(
    version: str, champion: AliasedModel | None, anchor: AliasedModel | None
) -> dict[str, Path]:
    """Models to be evaluated beside the new one, each once."""
    bundles = {} if champion is None else {"champion": champion.bundle}
    if anchor is not None and anchor.version not in (version, champion and champion.version):
        bundles["anchor"] = anchor.bundle
    return bundles


def _judge_chosen(
    context: Context,
    reports: Sequence[Report],
    is_new: bool,
    anchor: AliasedModel | None,
    champion: AliasedModel | None,
) -> Sequence[CheckResult]:
    """The model in charge from now on beside popularity and the anchor."""
    by_name, limits = {report.name: report for report in reports}, context.settings.gate
    if not reports:
        return ()
    rivals = {"popularity": (by_name["popularity"], limits.below_popularity)}
    if anchor is not None:
        same = champion is not None and anchor.version == champion.version
        report = by_name.get("champion" if same else "anchor", by_name["model"])
        rivals["anchor"] = report, limits.below_anchor
    return judge_rivals(
        by_name["model" if is_new else "champion"],
        rivals,
        context.run_date,
        context.written("build_gold", schemas.GOLD_HOLDOUT),
        context.settings.evaluate.bootstrap_samples,
        is_first=published_before(context.lake, context.run_date) is None,
    )


def _compare(context: Context, cases: evaluation.Cases, others: Mapping[str, Path]) -> list[Report]:
    """The new model, popularity, item-item, ALS and other bundles on the same users."""
    settings, lake = context.settings, context.lake
    written = context.done("build_gold").tables_written
    num_items = context.highest(schemas.SILVER_ITEMS, schemas.ITEM_IDX)
    num_users = context.highest(schemas.SILVER_USERS, schemas.USER_IDX)
    last = (holdout_cutoff(settings.gold, context.run_date) - timedelta(days=1)).date()
    stats = written[schemas.GOLD_ITEM_STATS.name]
    days = settings.evaluate.popularity_days
    popularity = read_popularity(lake, stats, num_items, last, days)
    windows = written[schemas.GOLD_TRAINING_SEQUENCES.name]
    factors = train_als(lake, windows, settings.evaluate.als, num_users, num_items)
    links = read_neighbors(
        lake, windows, settings.model.neighbor_window, settings.evaluate.item_neighbors
    )
    columns = (schemas.ITEM_IDX, schemas.LINKED, schemas.WEIGHT)
    items, linked, weights = (links.column(name).to_numpy() for name in columns)
    neighbors = group_links(items, linked, weights, num_items)
    bundle = Path(context.done("train").details["bundle"])
    rules, cases = add_rules(context, cases, last)
    reports = [
        *_evaluate_bundle(context, "model", bundle, cases, popularity, num_items, rules),
        *evaluation.evaluate_popularity(cases, popularity, settings.evaluate, rules),
        evaluation.evaluate_item_item(neighbors, cases, popularity, settings.evaluate),
        evaluation.evaluate_factors(factors, cases, popularity, settings.evaluate),
    ]
    for name, other in others.items():
        reports += _evaluate_bundle(context, name, other, cases, popularity, num_items, rules)[:1]
    return reports


def _evaluate_bundle(
    context: Context,
    name: str,
    bundle: Path,
    cases: evaluation.Cases,
    popularity: Popularity,
    num_items: int,
    rules: ListRules | None,
) -> list[Report]:
    """A model on the cases, with what it can know of today's items and users.

    Where rules are on, its lists without them follow as ``without_rules``; where a ranker puts its
    lists in order, those without it as ``first_stage``.
    """
    lake, items = context.lake, context.written("build_silver", schemas.SILVER_ITEMS)
    users = context.written("build_silver", schemas.SILVER_USERS)
    histories = describe_users(lake, cases.histories, bundle, users, context.attributes_version())
    model = load_extended(lake, bundle, items, num_items)
    described = replace(cases, histories=histories)
    ranker, given = load_ranker(bundle), (model, described, popularity, context.settings.evaluate)
    reports = [evaluation.evaluate_model(name, *given, ranker, rules)]
    if rules is not None:
        reports.append(evaluation.evaluate_model(WITHOUT_RULES, *given, ranker))
    if ranker is not None:
        reports.append(evaluation.evaluate_model("first_stage", *given, rules=rules))
    return reports


def _details(
    reports: list[Report],
    gate: Gate,
    version: str,
    champion: str,
    users: int,
    price: Interval | None,
) -> dict[str, str]:
    details = {
        "model_version": version,
        "champion_version": champion,
        "gate": gate.reason,
        "users": str(users),
        "models": " ".join(report.name for report in reports),
    }
    for report in reports:
        details |= {f"{report.name} {name}": f"{v:.4f}" for name, v in report.means.items()}
        low, high = report.interval.low, report.interval.high
        details[f"{report.name} interval"] = f"{low:.4f} {high:.4f}"
    if price is not None:
        details["rules price"] = f"{price.mean:.4f}"
        details["rules price interval"] = f"{price.low:.4f} {price.high:.4f}"
    return details


def _mlflow_metrics(reports: list[Report]) -> Mapping[str, float]:
    """The model's figures under their own names, the others' with their name in front."""
    return {
        name if report.name == "model" else f"{report.name}_{name}": value
        for report in reports
        for name, value in report.means.items()
    }


EVALUATE = Step("evaluate", ("evaluate", "tracking"), "train", _evaluate, rules_state)
