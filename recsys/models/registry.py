"""The one place that turns a configuration into a model: later models are added here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recsys.models.sasrec import SASRec, SASRecConfig


def build_model(config: SASRecConfig | Mapping[str, Any]) -> SASRec:
    """Build an untrained model from its configuration (an object or its ``to_dict``).

    Raises:
        ValueError: the configuration names an unknown kind of model or a wrong field.
    """
    return SASRec(config if isinstance(config, SASRecConfig) else SASRecConfig.from_dict(config))
