"""Steps of the model: train, evaluate."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from pyspark.sql import functions as F

from recsys import __version__, schemas
from recsys.bundle import load_for_scoring, load_ranker
from recsys.config import local_lake_path
from recsys.errors import ConfigError
from recsys.lake.baselines import train_als
from recsys.lake.examples import write_examples
from recsys.lake.item_links import pin_item_links, read_neighbors, write_item_links
from recsys.lake.pinning import pin_training_table
from recsys.lake.popularity import read_popularity
from recsys.lake.sequences import holdout_cutoff
from recsys.lake.staging import stage_files
from recsys.lake.tables import Commit
from recsys.ranking.neighbors import group_links
from recsys.score import evaluation
from recsys.score.evaluation import Gate, Report
from recsys.steps.context import Context, Outcome, Step
from recsys.steps.ranker import describe_ranker, make_ranker_job, ranker_settings, read_metrics
from recsys.steps.runner import fingerprint_of
from recsys.steps.tracking import open_tracking, tracking_uri
from recsys.train.job import TrainingJob, TrainingResult
from recsys.train.launch import find_result, launch_training


def _train(context: Context) -> Outcome:
    settings = context.settings
    num_items = _highest(context, schemas.SILVER_ITEMS, schemas.ITEM_IDX)
    fingerprint = fingerprint_of(context, TRAIN)
    folder = _checkpoint_root(context) / f"{context.run_date}-{fingerprint[:12]}"
    if context.force:
        shutil.rmtree(folder, ignore_errors=True)
    read = {
        **context.done("build_silver").tables_written,
        **context.done("build_gold").tables_written,
    }
    links = _write_links(context, read)
    written = {schemas.GOLD_ITEM_LINKS.name: links.version} if links else {}
    table = _pin_table(context, read)
    if table.name not in read:
        written[table.name] = table.version
    job = TrainingJob(
        settings,
        str(context.run_date),
        table,
        num_items,
        fingerprint,
        str(folder),
        str(folder / "bundle"),
        tracking_uri(settings),
        {**read, **written},
        {"code_commit": code_commit(), "lake": settings.lake.root},
        pin_item_links(context.lake, links.version) if links else {},
        num_users=_highest(context, schemas.SILVER_USERS, schemas.USER_IDX),
    )
    ranker = None
    if settings.ranker.enabled:
        ranker_job = make_ranker_job(context, job, context.force)
        ranker = _launch(context, ranker_job)
        job = replace(job, ranker_bundle=ranker.bundle_dir)
    result = _launch(context, job)
    judged, best = next(iter(result.metrics.items()))
    return Outcome(
        f"{result.epochs} epochs, best {result.best_epoch + 1} ({judged} {best:.4f}), "
        f"{result.events_per_second:,.0f} events/s, waited {result.wait_share:.1%}",
        rows_in=sum(file.rows for file in table.files),
        details={
            "run_id": result.run_id,
            "bundle": result.bundle_dir,
            "epochs": str(result.epochs),
            "best_epoch": str(result.best_epoch),
            "events_per_second": f"{result.events_per_second:.0f}",
            "wait_share": f"{result.wait_share:.4f}",
            "item_links": str(links.rows if links else 0),
            **{name: f"{value:.4f}" for name, value in result.metrics.items()},
            **describe_ranker(ranker),
        },
        tables_read=read,
        tables_written=written,
    )


def _pin_table(context: Context, read: Mapping[str, int]) -> schemas.PinnedTable:
    """What the task learns from: examples, which are written now, or the windows of build_gold."""
    windows = context.written("build_gold", schemas.GOLD_TRAINING_SEQUENCES)
    settings = context.settings
    examples = write_examples(
        context.lake, settings.task, read, context.run_date, settings.model.kind
    )
    if examples is None:
        return pin_training_table(context.lake, windows)
    return pin_training_table(context.lake, examples.version, schemas.GOLD_TRAINING_EXAMPLES)


def _write_links(context: Context, read: Mapping[str, int]) -> Commit | None:
    """gold/item_links for this training, where its model makes use of them."""
    model = context.settings.model
    if not model.attributes and not model.neighbor_weight:
        return None
    return write_item_links(context.lake, read, model)


def _launch(context: Context, job: TrainingJob) -> TrainingResult:
    """Train, on copies of the files where ``feed.stage_dir`` says so; they go when it is done."""
    stage_dir = context.settings.feed.stage_dir
    if not stage_dir or find_result(job) is not None:
        return launch_training(job, context.spark)
    folder = Path(stage_dir).absolute() / Path(job.checkpoint_dir).name
    copies = stage_files(context.spark, job.urls, folder)
    result = launch_training(job.moved(copies), context.spark)
    shutil.rmtree(folder, ignore_errors=True)
    return result


def _evaluate(context: Context) -> Outcome:
    settings, lake, gold = context.settings, context.lake, context.done("build_gold")
    run_id = context.done("train").details["run_id"]
    cases = evaluation.load_cases(
        lake, gold.tables_written[schemas.GOLD_HOLDOUT.name], settings.evaluate
    )
    registry = open_tracking(settings)
    version = registry.register_model(run_id)
    champion = registry.champion()
    if champion is not None and champion.version == version:
        champion = None  # a night that was cut off after the promotion judges as it did then
        again = True
    else:
        again = False
    if len(cases.user_idx):
        reports = _compare(context, cases, champion.bundle if champion else None)
        by_name = {report.name: report for report in reports}
        gate = evaluation.judge(by_name["model"], by_name["popularity"], by_name.get("champion"))
        if again:
            gate = Gate(True, "is the champion already")
    else:
        reports = []
        gate = Gate(champion is None, "no held-out user to compare on")
    if gate.passed:
        registry.promote(version)
    chosen = version if gate.passed or champion is None else champion.version
    details = _details(reports, gate, version, chosen, len(cases.user_idx))
    of_ranker = read_metrics(context.done("train").details)
    registry.log_metrics(run_id, {**_mlflow_metrics(reports), **of_ranker})
    registry.set_tags(run_id, {"gate": gate.reason, "champion_after": chosen})
    main = ", ".join(f"{r.name} {r.means[evaluation.MAIN_METRIC]:.4f}" for r in reports)
    return Outcome(
        f"NDCG@10 {main} ({len(cases.user_idx):,} users); "
        f"champion: version {chosen} ({gate.reason})",
        rows_in=len(cases.user_idx),
        details=details,
        tables_read=gold.tables_written,
    )


def _compare(context: Context, cases: evaluation.Cases, champion: Path | None) -> list[Report]:
    """The new model, popularity, ALS and the champion on the same users."""
    settings, lake = context.settings, context.lake
    written = context.done("build_gold").tables_written
    num_items = _highest(context, schemas.SILVER_ITEMS, schemas.ITEM_IDX)
    num_users = _highest(context, schemas.SILVER_USERS, schemas.USER_IDX)
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
    bundle = context.done("train").details["bundle"]
    model, ranker = load_for_scoring(bundle), load_ranker(bundle)
    reports = [
        evaluation.evaluate_model("model", model, cases, popularity, settings.evaluate, ranker),
        *evaluation.evaluate_popularity(cases, popularity, settings.evaluate),
        evaluation.evaluate_item_item(neighbors, cases, popularity, settings.evaluate),
        evaluation.evaluate_factors(factors, cases, popularity, settings.evaluate),
    ]
    if ranker is not None:
        reports.insert(
            1, evaluation.evaluate_model("first_stage", model, cases, popularity, settings.evaluate)
        )
    if champion is not None:
        old, its_ranker = load_for_scoring(champion), load_ranker(champion)
        reports.append(
            evaluation.evaluate_model(
                "champion", old, cases, popularity, settings.evaluate, its_ranker
            )
        )
    return reports


def _details(
    reports: list[Report], gate: Gate, version: str, champion: str, users: int
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
    return details


def _mlflow_metrics(reports: list[Report]) -> Mapping[str, float]:
    """The model's figures under their own names, the others' with their name in front."""
    return {
        name if report.name == "model" else f"{report.name}_{name}": value
        for report in reports
        for name, value in report.means.items()
    }


def _highest(context: Context, table: schemas.Table, index: str) -> int:
    version = context.written("build_silver", table)
    rows = context.lake.read(table, version).agg(F.coalesce(F.max(index), F.lit(0))).collect()
    return int(rows[0][0])


def _checkpoint_root(context: Context) -> Path:
    configured = context.settings.train.checkpoint_dir
    if configured:
        return Path(configured).absolute()
    root = local_lake_path(context.settings.lake.root)
    if root is None:
        raise ConfigError(
            "train.checkpoint_dir must be set for a lake that is not a local folder",
            where=context.settings.lake.root,
            do="name a folder that all ranks and the driver share",
        )
    return root / "_checkpoints"


def code_commit() -> str:
    """The commit of a clone (with a + where files differ from it), else the release."""
    folder = Path(__file__).resolve().parent
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return f"release {__version__}"
    return found.stdout.strip()


TRAIN = Step("train", ("feed", "model", "train", "tracking"), "build_gold", _train, ranker_settings)
EVALUATE = Step("evaluate", ("evaluate", "tracking"), "train", _evaluate)
