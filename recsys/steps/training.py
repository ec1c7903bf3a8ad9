"""The step train: what a night's model learns from, and its training."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recsys import __version__, schemas
from recsys.config import Settings, local_lake_path
from recsys.errors import ConfigError
from recsys.lake.examples import write_examples
from recsys.lake.item_links import link_kinds, pin_item_links, write_item_links
from recsys.lake.pinning import pin_training_table
from recsys.lake.popularity import hash_items
from recsys.lake.sequences import holdout_cutoff
from recsys.lake.staging import stage_files
from recsys.lake.tables import Commit
from recsys.lake.user_links import pin_user_links, write_user_links
from recsys.steps.context import Context, Outcome, Step
from recsys.steps.ranker import make_ranker_job, ranker_settings
from recsys.steps.runner import fingerprint_of
from recsys.steps.start import describe_start, find_start, forget_start, learn_online, start_from
from recsys.steps.tracking import tracking_uri
from recsys.train.job import TrainingJob, TrainingResult
from recsys.train.launch import find_result, launch_training
from recsys.train.pretrain import make_pretraining_job

LINK_SETTINGS = {f"model.{name}" for name in (
    "attributes", "neighbor_weight", "neighbors", "neighbor_window"
)}  # fmt: skip
"""Settings that gold/item_links depends on."""
_NOT_YET = schemas.PinnedTable("", -1, ())


@dataclass(frozen=True)
class TrainingPlan:
    """A training before it begins.

    Attributes:
        job: what to train.
        read, written: table name to version, of what it is trained on and of what was made for it.
        item_links, user_links: rows of gold/item_links and gold/user_links.
    """

    job: TrainingJob
    read: Mapping[str, int]
    written: Mapping[str, int]
    item_links: int
    user_links: int


def plan_training(context: Context) -> TrainingPlan:
    """Pin what the night's training reads, and write what its model needs besides.

    Raises:
        LakeError: build_gold of this night has not run, or left nothing to train on.
    """
    settings = context.settings
    num_items = context.highest(schemas.SILVER_ITEMS, schemas.ITEM_IDX)
    fingerprint = fingerprint_of(context, TRAIN)
    folder = checkpoint_root(settings) / f"{context.run_date}-{fingerprint[:12]}"
    if context.force:
        shutil.rmtree(folder, ignore_errors=True)
    read = {
        **context.done("build_silver").tables_written,
        **context.done("build_gold").tables_written,
    }
    links = _write_links(context, read)
    users = _write_user_links(context)
    written = {schemas.GOLD_ITEM_LINKS.name: links.version} if links else {}
    online = settings.train.online
    written |= {schemas.GOLD_USER_LINKS.name: users.version} if users else {}
    job = TrainingJob(
        settings,
        str(context.run_date),
        _NOT_YET if online else _pin_table(context, read),
        num_items,
        fingerprint,
        str(folder),
        str(folder / "bundle"),
        tracking_uri(settings),
        {**read, **written},
        {"code_commit": code_commit(), "lake": settings.lake.root},
        {
            **(pin_item_links(context.lake, links.version) if links else {}),
            **(pin_user_links(context.lake, users.version) if users else {}),
        },
        num_users=context.highest(schemas.SILVER_USERS, schemas.USER_IDX),
        trained_before=holdout_cutoff(settings.gold, context.run_date).isoformat(),
        catalogue=hash_items(
            context.lake, context.written("build_silver", schemas.SILVER_ITEMS), num_items
        ),
    )
    rows = [made.rows if made else 0 for made in (links, users)]
    return TrainingPlan(job, read, written, *rows)


def _train(context: Context) -> Outcome:
    plan = plan_training(context)
    start = find_start(context)
    job = start_from(context, plan.job, start)
    if context.settings.train.online:
        job = learn_online(context, job, plan.read, lambda: _pin_table(context, plan.read))
    written = {**plan.written}
    if job.table.name not in plan.read:
        written[job.table.name] = job.table.version
    job = dataclasses.replace(job, table_versions={**plan.read, **written})
    first = None
    if context.settings.train.pretraining.enabled:
        first = launch(context, _make_pretraining_job(context, job))
        tags = {**job.tags, "start_from": "pre-training"}
        job = dataclasses.replace(job, start_from=first.bundle_dir, tags=tags)
    ranker = None
    if context.settings.ranker.enabled:
        ranker = launch(context, make_ranker_job(context, job, context.force))
        job = dataclasses.replace(job, ranker_bundle=ranker.bundle_dir)
    result = launch(context, job)
    forget_start(job)
    judged, best = next(iter(result.metrics.items()))
    return Outcome(
        f"{result.epochs} epochs, best {result.best_epoch + 1} ({judged} {best:.4f}), "
        f"{result.events_per_second:,.0f} events/s, waited {result.wait_share:.1%}",
        rows_in=sum(file.rows for file in job.table.files),
        details={
            "run_id": result.run_id,
            "bundle": result.bundle_dir,
            "epochs": str(result.epochs),
            "best_epoch": str(result.best_epoch),
            "events_per_second": f"{result.events_per_second:.0f}",
            "wait_share": f"{result.wait_share:.4f}",
            "seconds": f"{result.seconds:.2f}",
            "item_links": str(plan.item_links),
            "user_links": str(plan.user_links),
            "start_from": job.tags.get("start_from", "chance"),
            **{name: f"{value:.4f}" for name, value in result.metrics.items()},
            **_describe_other("pretraining", first),
            **_describe_other("ranker", ranker),
        },
        tables_read=plan.read,
        tables_written=written,
    )


def _make_pretraining_job(context: Context, job: TrainingJob) -> TrainingJob:
    windows = context.written("build_gold", schemas.GOLD_TRAINING_SEQUENCES)
    made = make_pretraining_job(job, pin_training_table(context.lake, windows))
    if context.force:
        shutil.rmtree(made.checkpoint_dir, ignore_errors=True)
    return made


def _describe_other(name: str, result: TrainingResult | None) -> dict[str, str]:
    """Details of the step: epochs and figures of a training beside its own, ``name`` in front."""
    if result is None:
        return {}
    figures = {key.removeprefix("validation_"): v for key, v in result.metrics.items()}
    return {
        f"{name} epochs": str(result.epochs),
        **{f"{name} {key}": f"{value:.4f}" for key, value in figures.items()},
    }


def _pin_table(context: Context, read: Mapping[str, int]) -> schemas.PinnedTable:
    """What the task learns from: examples, which are written now, or the windows of build_gold."""
    windows = context.written("build_gold", schemas.GOLD_TRAINING_SEQUENCES)
    settings = context.settings
    kind, task = settings.model.kind, settings.task
    examples = write_examples(context.lake, kind, task, read, context.run_date)
    if examples is None:
        return pin_training_table(context.lake, windows)
    return pin_training_table(context.lake, examples.version, schemas.GOLD_TRAINING_EXAMPLES)


def _write_links(context: Context, read: Mapping[str, int]) -> Commit | None:
    """gold/item_links for this training, where its model makes use of them."""
    model = context.settings.model
    return write_item_links(context.lake, read, model) if link_kinds(model) else None


def _write_user_links(context: Context) -> Commit | None:
    """gold/user_links for this training, where its model looks at users' attributes."""
    attributes, model = context.attributes_version(), context.settings.model
    if model.kind != "two_tower" or attributes < 0:
        return None
    users = context.written("build_silver", schemas.SILVER_USERS)
    return write_user_links(context.lake, users, attributes, model.attribute_buckets)


def launch(context: Context, job: TrainingJob) -> TrainingResult:
    """Train, on copies of the files where ``feed.stage_dir`` says so; they go when it is done."""
    stage_dir = context.settings.feed.stage_dir
    if not stage_dir or find_result(job) is not None:
        return launch_training(job, context.spark)
    folder = Path(stage_dir).absolute() / Path(job.checkpoint_dir).name
    copies = stage_files(context.spark, job.urls, folder)
    result = launch_training(job.moved(copies), context.spark)
    shutil.rmtree(folder, ignore_errors=True)
    return result


def checkpoint_root(settings: Settings) -> Path:
    """The folder of all trainings' checkpoints and bundles.

    Raises:
        ConfigError: the lake is not a local folder and none is set.
    """
    configured = settings.train.checkpoint_dir
    if configured:
        return Path(configured).absolute()
    root = local_lake_path(settings.lake.root)
    if root is None:
        raise ConfigError(
            "train.checkpoint_dir must be set for a lake that is not a local folder",
            where=settings.lake.root,
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


def _other_inputs(context: Context) -> str:
    """What a night's model depends on beside its settings and data."""
    return f"{describe_start(context)}{ranker_settings(context)}"


TRAIN = Step("train", ("feed", "model", "train", "tracking"), "build_gold", _train, _other_inputs)
