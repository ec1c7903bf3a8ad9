"""A search for settings of a night's model, on the windows that the night's training reads."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recsys.config import Settings, Space, local_lake_path, with_values
from recsys.errors import ConfigError, ConflictError
from recsys.steps.context import Context
from recsys.steps.runner import fingerprint_of
from recsys.steps.tracking import tracking_uri
from recsys.steps.training import LINK_SETTINGS, TRAIN, checkpoint_root, launch, plan_training
from recsys.train.job import TrainingJob, TrainingResult
from recsys.train.objectives import find_objective
from recsys.train.runs import Run
from recsys.train.search import COMPLETE, Search, Trial
from recsys.train.search_report import draw_search
from recsys.train.trials import run_search

_FOLDER = "_search"


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        ranked: all trials, best first.
        metric: the main metric of the objective.
        experiment, run_id: of MLflow.
        picture: a PNG.
    """

    ranked: list[Trial]
    metric: str
    experiment: str
    run_id: str
    picture: Path

    @property
    def best(self) -> Trial | None:
        """None where no trial was complete."""
        return next((trial for trial in self.ranked if trial.state == COMPLETE), None)


class _NightTrials:
    """Trains trials on what the night's step ``train`` would read."""

    def __init__(self, context: Context, search: Search, folder: Path) -> None:
        self._context, self._search, self._folder = context, search, folder
        self._metric = find_objective(context.settings).main_metric
        self._plans: dict[str, TrainingJob] = {}

    def train(self, trial: Trial) -> tuple[TrainingResult, float]:
        """The result of a trial and its main metric; its files go when it is done."""
        settings = with_values(self._context.settings, trial.values)
        context = dataclasses.replace(self._context, settings=settings)
        folder = self._folder / f"{self._folder.name}-{trial.number}"
        job = dataclasses.replace(
            self._plan(context, trial.values),
            settings=_apart(settings),
            fingerprint=fingerprint_of(context, TRAIN),
            checkpoint_dir=str(folder),
            bundle_dir=str(folder / "bundle"),
            trial=self._search.key(trial),
        )
        result = launch(context, job)
        shutil.rmtree(folder, ignore_errors=True)
        return result, result.metrics[self._metric]

    def _plan(self, context: Context, values: dict[str, Any]) -> TrainingJob:
        """Of trials with equal links of items, one job serves all."""
        key = repr([(name, value) for name, value in values.items() if name in LINK_SETTINGS])
        if key not in self._plans:
            self._plans[key] = plan_training(context).job
        return self._plans[key]


def search_settings(
    context: Context,
    space: Space,
    trials: int,
    timeout_seconds: float | None,
    say: Callable[[Trial], None],
) -> Found:
    """Search on the windows of a night whose build_gold has run.

    The same settings, space and windows go on with the trials that are there.

    Args:
        context: of the night; its ``settings`` are those that are not searched.
        space: what to try.
        trials, timeout_seconds, say: see ``run_search``.

    Raises:
        ConfigError: the settings name a model to start from, or pre-training.
        LakeError: build_gold has not run for this date.
        ConflictError: another process runs this search.
        TrainingError, TrackingError: see ``run_search`` and ``launch_training``.
    """
    settings, objective = context.settings, find_objective(context.settings)
    if settings.train.start_from:
        raise ConfigError(
            "a search trains from chance, so that trials can be compared",
            where=f"train.start_from={settings.train.start_from}",
            do="search with train.start_from=null",
        )
    if settings.train.pretraining.enabled:
        raise ConfigError(
            "a search has one training a trial",
            where="train.pretraining.enabled=true",
            do="search with train.pretraining.enabled=false",
        )
    content = f"{fingerprint_of(context, TRAIN)} {sorted(map(repr, space.items()))}"
    name = f"{context.run_date}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    folder = _search_root(context) / name
    folder.mkdir(parents=True, exist_ok=True)
    tracking = _apart(settings).tracking
    with _alone(folder / "lock"):
        url, seed = f"sqlite:///{folder / 'search.db'}", settings.train.seed
        search = Search(url, name, space, objective.higher_is_better, seed)
        run = Run.begin(
            tracking_uri(settings),
            tracking.timeout_seconds,
            tracking.experiment,
            f"search {context.run_date}",
            search.run_id,
        )
        search.set_run_id(run.run_id)
        nights = _NightTrials(context, search, folder)
        run_search(search, nights.train, trials, timeout_seconds, say)
        picture = folder / "search.png"
        _report(search, run, objective.main_metric, picture)
    return Found(search.ranked(), objective.main_metric, tracking.experiment, run.run_id, picture)


def _apart(settings: Settings) -> Settings:
    """With an experiment of MLflow apart from the nights', whose list stays short."""
    experiment = f"{settings.tracking.experiment}-search"
    tracking = settings.tracking.model_copy(update={"experiment": experiment})
    return settings.model_copy(update={"tracking": tracking})


def _search_root(context: Context) -> Path:
    """In the lake, or where trainings are kept: rank 0 of a trial must reach it."""
    lake = local_lake_path(context.settings.lake.root)
    if lake is None or context.settings.train.checkpoint_dir:
        return checkpoint_root(context.settings) / _FOLDER
    return lake / _FOLDER


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                "another process runs this search",
                where=str(path),
                do="wait for it, or change --space or a setting to search beside it",
            ) from None
        yield


def _report(search: Search, run: Run, metric: str, picture: Path) -> None:
    """Draw the picture; keep it, the figures and the best values with the run."""
    trials, best = search.trials(), search.best()
    draw_search(trials, search.space, metric, search.higher_is_better, picture)
    tags = {"trials": str(len(trials))}
    if best is not None:
        values = {f"best.{key}": str(value) for key, value in best.values.items()}
        tags |= {"best_trial": str(best.number), **values}
    figures = [(metric, t.value, t.number) for t in trials if t.value is not None]
    run.end(tags=tags, metrics=figures, files=[picture])
