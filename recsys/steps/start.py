"""Which earlier model a night's training starts from (``train.start_from``).

A night must come out the same whenever it is run. So "champion" is not what the registry calls so
now, which may be this night's own model or a later one, but the one that was in charge after the
newest night before this one, as ops/runs says.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pyspark.sql import functions as F

from recsys import schemas
from recsys.bundle import BUNDLE_FILE, BundleInfo, load_info
from recsys.errors import TrainingError
from recsys.files import hash_file
from recsys.lake.examples import write_new_ratings
from recsys.lake.operations import read_earlier
from recsys.lake.pinning import pin_training_table
from recsys.schemas import PinnedTable
from recsys.steps.context import Context
from recsys.steps.tracking import open_tracking
from recsys.train.job import TrainingJob
from recsys.train.registry import CHAMPION
from recsys.train.start import find_misfit, set_warm_schedule

_FOLDER = "start"


@dataclass(frozen=True)
class Start:
    """A model to start from.

    Attributes:
        name: in words.
        identity: two that differ hold different weights.
        version: in the registry; empty for a bundle that was given by its path.
        path: of that bundle.
    """

    name: str
    identity: str
    version: str = ""
    path: str = ""


def describe_start(context: Context) -> str:
    """What a training's result depends on beside settings and data: the model it starts from.

    Raises:
        RecsysError: the path that is set is no bundle.
    """
    start = find_start(context)
    return "" if start is None else start.identity


def find_start(context: Context) -> Start | None:
    """The model that the settings name; None where they name none, or no night has one yet.

    Raises:
        RecsysError: the path that is set is no bundle.
    """
    wanted = context.settings.train.start_from
    if wanted is None:
        return None
    if wanted == CHAMPION:
        return _find_champion(context)
    info = load_info(wanted)
    with (Path(wanted) / BUNDLE_FILE).open("rb") as file:
        return Start(f"the model of {info.run_date}", hash_file(file).hex(), path=wanted)


def start_from(context: Context, job: TrainingJob, start: Start | None) -> TrainingJob:
    """The job as it starts from a model: its bundle, and what is new to it.

    From a champion it goes on, with the shorter schedule for that; a path may be the start of
    another task, and leaves the schedule as it is set. A champion that does not fit (another kind
    or shape, or trained on what is held out now) is left, and the training starts from chance.

    Raises:
        TrainingError: a model that was given by its path does not fit.
    """
    if start is None:
        if context.settings.train.start_from:
            context.say("  train         no night before has a model: starts from chance")
        return job
    bundle = start.path or _download(context, job, start)
    info = load_info(bundle)
    before = info.trained_before
    misfit = _find_overlap(job, before) or find_misfit(job, bundle) or _find_renumbered(job, info)
    if misfit and start.path:
        raise TrainingError(
            f"the model to start from {misfit}",
            where=start.path,
            do="name another one, train with its settings, or set train.start_from=null",
        )
    if misfit:
        context.say(f"  train         {start.name} {misfit}: starts from chance")
        return job
    online = job.settings.train.online  # has a schedule of its own
    return dataclasses.replace(
        job,
        settings=job.settings if start.path or online else set_warm_schedule(job.settings),
        start_from=str(Path(bundle).absolute()),
        new_items=_read_new_items(context, datetime.fromisoformat(before)),
        tags={**job.tags, "start_from": start.name},
    )


def learn_online(
    context: Context, job: TrainingJob, read: Mapping[str, int], pin_all: Callable[[], PinnedTable]
) -> TrainingJob:
    """The job with the ratings since the model it starts from; with all where there are none.

    Args:
        read: versions of the tables of this night.
        pin_all: makes the table of all.
    """
    if job.start_from:
        since = datetime.fromisoformat(load_info(job.start_from).trained_before)
        new = write_new_ratings(context.lake, read, context.run_date, since)
        if new is not None:
            examples = schemas.GOLD_TRAINING_EXAMPLES
            table = pin_training_table(context.lake, new.version, examples)
            return dataclasses.replace(job, table=table, settings=set_warm_schedule(job.settings))
        context.say(f"  train         too little that is new since {since.date()}: learns from all")
    train = context.settings.train.model_copy(update={"online": False})
    settings = context.settings.model_copy(update={"train": train})
    if job.start_from:
        settings = set_warm_schedule(settings)
    return dataclasses.replace(job, table=pin_all(), settings=settings)


def forget_start(job: TrainingJob) -> None:
    """Remove the copy that the training started from; a later one fetches it again."""
    shutil.rmtree(Path(job.checkpoint_dir) / _FOLDER, ignore_errors=True)


def _find_champion(context: Context) -> Start | None:
    runs = read_earlier(context.lake, context.run_date, ("train", "evaluate"))
    judged = [run for run in runs if run.stage == "evaluate"]
    if not judged:
        return None
    version = judged[-1].details["champion_version"]
    made = [run for run in judged if run.details["model_version"] == version]
    nights = {made[-1].run_date} if made else set()
    trained = [run for run in runs if run.stage == "train" and run.run_date in nights]
    name = f"the champion, version {version}" + "".join(f" of {night}" for night in nights)
    identity = f"{version} {trained[-1].fingerprint if trained else ''}"
    return Start(name, f"{context.settings.tracking.model_name} {identity}", version=version)


def _download(context: Context, job: TrainingJob, start: Start) -> str:
    """In the job's folder, which all ranks can read; every training has one of its own."""
    folder = Path(job.checkpoint_dir) / _FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return str(open_tracking(context.settings).bundle_of(start.version, folder))


def _find_overlap(job: TrainingJob, before: str) -> str:
    """A model that saw tonight's hold-out would be judged on what it learned by heart."""
    if not before:
        return "does not say on which days it was trained"
    if datetime.fromisoformat(before) > datetime.fromisoformat(job.trained_before):
        return f"was trained on events up to {before}, held out now from {job.trained_before}"
    return ""


def _find_renumbered(job: TrainingJob, info: BundleInfo) -> str:
    """Words of attributes are numbered by all that there are in the catalogue."""
    name = schemas.SILVER_ITEMS.name
    same = info.table_versions.get(name) == job.table_versions.get(name)
    if same or "attribute" not in job.links or not job.settings.model.attributes:
        return ""
    return "numbers the words of attributes by another catalogue (model.attributes)"


def _read_new_items(context: Context, since: datetime) -> list[int]:
    """Items whose first event came on or after ``since``, a start of a day in UTC."""
    version = context.written("build_silver", schemas.SILVER_ITEMS)
    items = context.lake.read(schemas.SILVER_ITEMS, version)
    new = items.where(F.col(schemas.FIRST_SEEN) >= F.lit(since.date())).select(schemas.ITEM_IDX)
    return sorted(row[0] for row in new.collect())
