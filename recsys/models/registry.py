"""The one place that turns a configuration into a model: every kind is listed here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recsys.models import click_ranker, transformer_config, two_tower
from recsys.models.click_ranker import ClickRanker, ClickRankerConfig
from recsys.models.collaborative_network import CollaborativeNetwork, CollaborativeNetworkConfig
from recsys.models.contract import ModelConfig, Recommender
from recsys.models.matrix_factorization import MatrixFactorization, MatrixFactorizationConfig
from recsys.models.transformer import SequenceTransformer
from recsys.models.transformer_config import TransformerConfig
from recsys.models.two_tower import TwoTower, TwoTowerConfig

_KINDS: dict[str, tuple[Any, type[Recommender]]] = {
    transformer_config.KIND: (TransformerConfig, SequenceTransformer),
    transformer_config.FORMER_KIND: (TransformerConfig, SequenceTransformer),
    MatrixFactorizationConfig.kind: (MatrixFactorizationConfig, MatrixFactorization),
    CollaborativeNetworkConfig.kind: (CollaborativeNetworkConfig, CollaborativeNetwork),
    two_tower.KIND: (TwoTowerConfig, TwoTower),
    click_ranker.KIND: (ClickRankerConfig, ClickRanker),
}


def read_config(values: Mapping[str, Any]) -> ModelConfig:
    """The configuration that ``to_dict`` of any kind made.

    Raises:
        ValueError: an unknown kind of model, or fields are missing or unknown.
    """
    kind = values.get("kind")
    if kind not in _KINDS:
        raise ValueError(f"unknown kind of model {kind!r}; known: {', '.join(_KINDS)}")
    config: ModelConfig = _KINDS[kind][0].from_dict(values)
    return config


def build_model(config: ModelConfig | Mapping[str, Any]) -> Recommender:
    """Build an untrained model from its configuration (an object or its ``to_dict``).

    Raises:
        ValueError: as ``read_config``.
    """
    if isinstance(config, Mapping):
        config = read_config(config)
    return _KINDS[config.to_dict()["kind"]][1](config)


def class_of(config: ModelConfig) -> type[Recommender]:
    """The class of the models with a configuration."""
    return _KINDS[config.to_dict()["kind"]][1]


def kinds_with_users() -> list[str]:
    """Kinds of models that have a row for each user (``Recommender.user_tables``)."""
    return [kind for kind in _KINDS if tables_of_users(kind)]


def tables_of_users(kind: str | None = None) -> frozenset[str]:
    """Names of weights with a row a user, of one kind or of all."""
    kinds = _KINDS if kind is None else (kind,)
    return frozenset(name for known in kinds for name in _KINDS[known][1].user_tables)
