"""The registry of trained models: versions, the champion, and the list of runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recsys.bundle import BUNDLE_FILE
from recsys.errors import TrackingError
from recsys.train.tracking import metrics_of_now, reach

CHAMPION = "champion"
"""The registry alias of the model whose lists are live."""
ANCHOR = "anchor"
"""The alias of a model that stays the same over the nights, so that others have a measure."""


@dataclass(frozen=True)
class AliasedModel:
    """A version that an alias names.

    Attributes:
        version: in the registry.
        run_id: MLflow run that trained it.
        bundle: local folder for ``bundle.load_bundle``.
    """

    version: str
    run_id: str
    bundle: Path


@dataclass(frozen=True)
class Trained:
    """Runs of one experiment.

    Attributes:
        location: where MLflow keeps the experiment's models: a path or a URL.
        runs: run id to the lake that it was trained on, as its settings named it.
    """

    location: str
    runs: dict[str, str]


@dataclass(frozen=True)
class ModelRegistry:
    """One registered model in one MLflow server or store.

    Every method raises ``TrackingError`` when it can't be reached or lacks what is asked for.

    Attributes:
        uri: MLflow server or store, resolved (never None).
        model_name: registered model.
        experiment: of its runs.
        timeout_seconds: wait for a server before giving up.
    """

    uri: str
    model_name: str
    experiment: str
    timeout_seconds: int

    def register_model(self, run_id: str) -> str:
        """Version of the run's model; the same run always gives the same version."""
        with reach(self.uri, self.timeout_seconds) as client:
            for known in self._versions(client):
                if known.run_id == run_id:
                    return str(known.version)
            run = client.get_run(run_id)
            models = client.search_logged_models(
                [run.info.experiment_id], filter_string=f"source_run_id = '{run_id}'"
            )
            if not models:
                raise TrackingError(
                    f"run {run_id} has no model", where=self.uri, do="train again: it was cut off"
                )
            newest = max(models, key=lambda model: model.creation_timestamp)
            self._ensure_registered(client)
            made = client.create_model_version(
                self.model_name, newest.artifact_location, run_id, model_id=newest.model_id
            )
            return str(made.version)

    def champion(self, folder: Path | None = None) -> AliasedModel | None:
        """The model in charge, or None where there is none yet.

        Args:
            folder: where the bundle of a remote server is put; None takes a temporary folder.
        """
        return self._model_of(CHAMPION, folder)

    def anchor(self, folder: Path | None = None) -> AliasedModel | None:
        """The model that stays, or None where there is none yet."""
        return self._model_of(ANCHOR, folder)

    def _model_of(self, alias: str, folder: Path | None) -> AliasedModel | None:
        with reach(self.uri, self.timeout_seconds) as client:
            found = self._by_alias(client, alias)
            if found is None:
                return None
            return AliasedModel(
                str(found.version), str(found.run_id), self._download(client, found, folder)
            )

    def bundle_of(self, version: str, folder: Path | None = None) -> Path:
        """Local bundle folder of any version."""
        with reach(self.uri, self.timeout_seconds) as client:
            found = client.get_model_version(self.model_name, version)
            return self._download(client, found, folder)

    def promote(self, version: str, alias: str = CHAMPION) -> None:
        """Move the alias to ``version``."""
        with reach(self.uri, self.timeout_seconds) as client:
            client.set_registered_model_alias(self.model_name, alias, version)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Add figures to a finished run, e.g. of the gate."""
        with reach(self.uri, self.timeout_seconds) as client:
            client.log_batch(run_id, metrics=metrics_of_now(metrics, 0))

    def log_report(self, run_id: str, name: str, text: str) -> None:
        """Add a text (Markdown, JSON, …) to a run under the file name ``name``."""
        with reach(self.uri, self.timeout_seconds) as client:
            client.log_text(run_id, text, name)

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Add tags to a run."""
        with reach(self.uri, self.timeout_seconds) as client:
            for name, value in tags.items():
                client.set_tag(run_id, name, value)

    def list_runs(self, limit: int = 20) -> list[dict[str, Any]]:
        """The newest runs, newest first, as plain values for a table.

        Keys: run_id, name, run_date, status, started (ISO, UTC), seconds (None while it runs),
        version and alias (empty where not registered), metrics (name to value), tags.
        """
        with reach(self.uri, self.timeout_seconds) as client:
            experiment = client.get_experiment_by_name(self.experiment)
            if experiment is None:
                return []
            runs = client.search_runs(
                [experiment.experiment_id],
                max_results=limit,
                order_by=["attributes.start_time DESC"],
            )
            versions = {v.run_id: str(v.version) for v in self._versions(client)}
            champion = self._by_alias(client, CHAMPION)
        leading = str(champion.version) if champion else None
        return [_describe(run, versions.get(run.info.run_id, ""), leading) for run in runs]

    def find_trained(self, kinds: Iterable[str]) -> list[Trained]:
        """All runs of some kinds of models, in any experiment, deleted ones too."""
        from mlflow.entities import ViewType

        found = []
        with reach(self.uri, self.timeout_seconds) as client:
            for experiment in client.search_experiments(view_type=ViewType.ALL):
                runs: dict[str, str] = {}
                for kind in kinds:
                    wanted, page = f"params.`model.kind` = '{kind}'", None
                    while page != "":
                        some = client.search_runs(
                            [experiment.experiment_id], wanted, ViewType.ALL, page_token=page
                        )
                        runs |= {run.info.run_id: run.data.tags.get("lake", "") for run in some}
                        page = some.token or ""
                if runs:
                    found.append(Trained(str(experiment.artifact_location), runs))
        return found

    def _versions(self, client: Any) -> list[Any]:
        return list(client.search_model_versions(f"name = '{self.model_name}'"))

    def _by_alias(self, client: Any, alias: str) -> Any | None:
        from mlflow.exceptions import MlflowException

        try:
            return client.get_model_version_by_alias(self.model_name, alias)
        except MlflowException as error:
            # Both an unknown model and an unknown alias mean that nothing was promoted yet.
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def _ensure_registered(self, client: Any) -> None:
        from mlflow.exceptions import MlflowException

        try:
            client.create_registered_model(self.model_name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _download(self, client: Any, version: Any, folder: Path | None) -> Path:
        import mlflow

        source = client.get_model_version_download_uri(self.model_name, version.version)
        local = mlflow.artifacts.download_artifacts(
            artifact_uri=source,
            tracking_uri=self.uri,
            dst_path=str(folder) if folder else None,
        )
        found = sorted(Path(local).glob(f"artifacts/*/{BUNDLE_FILE}"))
        if not found:
            raise TrackingError(
                f"version {version.version} of model {self.model_name} holds no bundle",
                where=str(source),
                do="promote another version",
            )
        return found[0].parent


def _describe(run: Any, version: str, champion: str | None) -> dict[str, Any]:
    info = run.info
    ended = info.end_time
    return {
        "run_id": info.run_id,
        "name": info.run_name,
        "run_date": run.data.tags.get("run_date", ""),
        "status": info.status,
        "started": datetime.fromtimestamp(info.start_time / 1000, UTC).isoformat(),
        "seconds": (ended - info.start_time) / 1000 if ended else None,
        "version": version,
        "alias": CHAMPION if version and version == champion else "",
        "metrics": dict(run.data.metrics),
        "tags": {k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.")},
    }
