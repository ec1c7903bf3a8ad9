"""Settings of where runs and models are kept."""

from __future__ import annotations

from pydantic import Field

from recsys.config.section import Section


class Tracking(Section):
    uri: str | None = Field(
        description="MLflow server or store; null is SQLite under the lake (a local lake)"
    )
    experiment: str = Field(min_length=1, description="MLflow experiment")
    model_name: str = Field(min_length=1, description="registered model")
    timeout_seconds: int = Field(ge=1, description="wait for a server before giving up")
