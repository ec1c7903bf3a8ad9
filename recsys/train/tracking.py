"""Runs in MLflow: parameters, tags, curves and the model of a training.

This module, ``registry`` and ``pyfunc_model`` are the only importers of MLflow, and only when
used: ranks other than 0 never pay for it.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import yaml

from recsys.errors import TrackingError
from recsys.train.job import TrainingJob, TrainingResult

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BATCH = 1000
"""Metrics MLflow takes in one request."""
_SECRET = re.compile(r"secret|password|passwd|token|credential|access.?key|account.?key", re.I)
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")
_REDACTED = "***"


class Tracker(Protocol):
    """What the training loop reports; called on rank 0 only."""

    def start(self, run_id: str) -> str:
        """Begin a run, or continue ``run_id`` unless it is empty; returns its id."""

    def log_steps(self, steps: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Figures of several optimizer steps, (global step from 0, name to value)."""

    def log_epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Figures of a validated epoch, from 0."""

    def finish(self, result: TrainingResult, history: Sequence[Mapping[str, float]]) -> None:
        """Log the curves and the model in ``result.bundle_dir``, and end the run.

        Of a trial of a search the curves are kept alone: what is searched for are settings.
        """


class NullTracker:
    """Tracks nothing: for benchmarks and for training without MLflow."""

    def start(self, run_id: str) -> str:
        return run_id

    def log_steps(self, steps: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        return None

    def log_epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        return None

    def finish(self, result: TrainingResult, history: Sequence[Mapping[str, float]]) -> None:
        return None


class MlflowTracker:
    """One training as one MLflow run; a killed training continues the same run.

    Args:
        job: says where (``tracking_uri``), under which experiment, and with which tags.
        ranks: world size, for the tags.
    """

    def __init__(self, job: TrainingJob, ranks: int) -> None:
        assert job.tracking_uri is not None
        self._job, self._ranks, self._run_id = job, ranks, ""
        self._uri, settings = job.tracking_uri, job.settings.tracking
        self._experiment, self._timeout = settings.experiment, settings.timeout_seconds
        self._metrics: list[Any] = []

    def start(self, run_id: str) -> str:
        """Begin or continue the run.

        Raises:
            TrackingError: the server or store can't be reached.
        """
        with reach(self._uri, self._timeout) as client:
            experiment = find_experiment(client, self._uri, self._experiment)
            if run_id and _exists(client, run_id):
                client.update_run(run_id, status="RUNNING")
                self._run_id = run_id
                return run_id
            tags = describe_tags(self._job, self._ranks)
            trial = self._job.trial
            name = f"{self._job.run_date} {self._job.fingerprint[:8]}"
            name = f"trial {trial.number}" if trial else name
            run = client.create_run(experiment, run_name=name, tags=tags)
            self._run_id = str(run.info.run_id)
            self._log_settings(client)
        return self._run_id

    def log_steps(self, steps: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        self._remember((f"step_{name}", v, i) for i, row in steps for name, v in row.items())
        if len(self._metrics) >= _BATCH:
            self._send()

    def log_epoch(self, epoch: int, figures: Mapping[str, float]) -> None:
        self._remember((name, value, epoch) for name, value in figures.items())
        self._send()

    def finish(self, result: TrainingResult, history: Sequence[Mapping[str, float]]) -> None:
        figures = {
            "best_epoch": float(result.best_epoch),
            "epochs": float(result.epochs),
            "train_seconds": result.seconds,
            "events_per_second": result.events_per_second,
            "wait_share": result.wait_share,
            "sent_bytes_per_step": result.sent_bytes_per_step,
            **{f"best_{name}": value for name, value in result.metrics.items()},
        }
        # A step of their own, which no curve has: MLflow shows with a model what its step has.
        self._metrics += metrics_of_now(figures, result.global_steps)
        self._send()
        with reach(self._uri, self._timeout) as client, tempfile.TemporaryDirectory() as folder:
            for picture in draw_curves(history, Path(folder)):
                client.log_artifact(self._run_id, str(picture), "curves")
            if self._job.trial is None:
                from recsys.train.pyfunc_model import log_model

                log_model(self._uri, self._run_id, result.bundle_dir, result.global_steps)
            if result.pruned:
                client.set_tag(self._run_id, "outcome", "pruned")
            client.set_terminated(self._run_id, "KILLED" if result.pruned else "FINISHED")

    def _log_settings(self, client: MlflowClient) -> None:
        from mlflow.entities import Param

        settings = redact(self._job.settings.model_dump(mode="json"))
        params = [Param(key, str(value)[:500]) for key, value in flatten(settings)]
        for start in range(0, len(params), 100):
            client.log_batch(self._run_id, params=params[start : start + 100])
        client.log_text(self._run_id, yaml.safe_dump(settings, sort_keys=False), "config.yaml")

    def _remember(self, figures: Iterable[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        # The step doubles as the time: a re-run of the same job logs the same records.
        self._metrics += [Metric(name, value, step, step) for name, value, step in figures]

    def _send(self) -> None:
        with reach(self._uri, self._timeout) as client:
            while self._metrics:
                client.log_batch(self._run_id, metrics=self._metrics[:_BATCH])
                del self._metrics[:_BATCH]


def metrics_of_now(figures: Mapping[str, float], step: int) -> list[Any]:
    """MLflow metrics with the present as their timestamp: if logged again, the last value counts.

    Of two values of one step and timestamp MLflow shows the larger, and refuses a model.
    """
    from mlflow.entities import Metric

    now = time.time_ns() // 1_000_000
    return [Metric(name, float(value), now, step) for name, value in figures.items()]


@contextmanager
def reach(uri: str, timeout_seconds: int) -> Iterator[MlflowClient]:
    """A client of ``uri``; any failure inside the block becomes a ``TrackingError``.

    A server that doesn't answer is given up after about ``timeout_seconds``.
    """
    # Read by MLflow at each request. One retry: a server that restarts is forgiven, one that is
    # gone is noticed within the time.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(max(1, timeout_seconds // 2))
    os.environ["MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR"] = "1"
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    import mlflow
    import requests
    import sqlalchemy
    from mlflow.exceptions import MlflowException

    try:
        yield mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    except (MlflowException, requests.RequestException, sqlalchemy.exc.SQLAlchemyError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrackingError(
            f"MLflow failed: {without_user(first_line)[:300]}",
            where=without_user(uri),
            do="check that the server runs and tracking.uri is right; then run again: "
            "what was done so far is kept",
        ) from None  # the cause repeats the URL with its password


def find_experiment(client: MlflowClient, uri: str, name: str) -> str:
    """Id of the experiment, made where it doesn't exist; SQLite keeps artifacts beside its file."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        location = None
        if uri.startswith("sqlite:///"):
            folder = Path(uri.removeprefix("sqlite:///")).resolve().parent
            location = (folder / "mlflow-artifacts").as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:  # another process was faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def describe_tags(job: TrainingJob, ranks: int) -> dict[str, str]:
    """Tags that replay a run: versions, seed, world size, and what the job adds (the commit)."""
    nested = {"mlflow.parentRunId": job.trial.run_id} if job.trial and job.trial.run_id else {}
    return {
        "run_date": job.run_date,
        "fingerprint": job.fingerprint,
        "seed": str(job.settings.train.seed),
        "world_size": str(ranks),
        "num_items": str(job.num_items),
        **{f"table.{name}": str(version) for name, version in job.table_versions.items()},
        f"table.{job.table.name}": str(job.table.version),
        **job.tags,
        **nested,
    }


def redact(values: Any, name: str = "") -> Any:
    """A copy of nested settings without secrets: by the key's name, and passwords inside URLs."""
    if isinstance(values, Mapping):
        return {key: redact(value, str(key)) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [redact(value, name) for value in values]
    if _SECRET.search(name) and values is not None:
        return _REDACTED
    return without_user(values) if isinstance(values, str) else values


def without_user(uri: str) -> str:
    """The URL without ``user:password@``."""
    return _USER_INFO.sub("", uri)


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as (dotted key, value), in order."""
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        nested = isinstance(value, Mapping) and bool(value)
        rows += flatten(value, f"{prefix}{key}.") if nested else [(prefix + str(key), value)]
    return rows


def draw_curves(history: Sequence[Mapping[str, float]], folder: Path) -> list[Path]:
    """One PNG a figure over epochs (losses share one), whatever is learned; returns the files."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(history[0]) if history else []
    losses = [name for name in names if name.endswith("loss")]
    files = []
    for title, group in [("loss", losses), *[(n, [n]) for n in names if n not in losses]]:
        figure = Figure(figsize=(6, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for name in group:
            axes.plot(range(1, len(history) + 1), [row[name] for row in history], label=name)
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss per target" if title == "loss" else title)
        axes.legend()
        files.append(folder / f"{title}.png")
        figure.savefig(files[-1], dpi=100)
    return files


def _exists(client: MlflowClient, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
