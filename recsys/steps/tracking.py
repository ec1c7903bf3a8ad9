"""Where this lake's runs and models are kept."""

from __future__ import annotations

from recsys.config import Settings, local_lake_path
from recsys.errors import ConfigError
from recsys.train.registry import ModelRegistry


def tracking_uri(settings: Settings) -> str:
    """``tracking.uri``, or a SQLite store inside a local lake (its folder is made).

    Raises:
        ConfigError: the lake is not a local folder and no uri is set.
    """
    if settings.tracking.uri:
        return settings.tracking.uri
    root = local_lake_path(settings.lake.root)
    if root is None:
        raise ConfigError(
            "tracking.uri must be set for a lake that is not a local folder",
            where=settings.lake.root,
            do="give the address of an MLflow server",
        )
    folder = root / "_mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'mlflow.db'}"


def open_tracking(settings: Settings) -> ModelRegistry:
    """The runs and the registered model of these settings."""
    tracking = settings.tracking
    return ModelRegistry(
        tracking_uri(settings), tracking.model_name, tracking.experiment, tracking.timeout_seconds
    )
