"""The one place that turns a configuration into a model: later models are added here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recsys.models.transformer import SequenceTransformer, TransformerConfig


def build_model(config: TransformerConfig | Mapping[str, Any]) -> SequenceTransformer:
    """Build an untrained model from its configuration (an object or its ``to_dict``).

    Raises:
        ValueError: the configuration names an unknown kind of model or a wrong field.
    """
    if not isinstance(config, TransformerConfig):
        config = TransformerConfig.from_dict(config)
    return SequenceTransformer(config)
