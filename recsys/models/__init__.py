"""Torch models and their losses: no I/O, no ranks, no Spark."""

from recsys.models.contract import Inputs, ModelConfig, Recommender
from recsys.models.registry import build_model, read_config
from recsys.models.transformer import SequenceTransformer, TransformerConfig

__all__ = [
    "Inputs",
    "ModelConfig",
    "Recommender",
    "SequenceTransformer",
    "TransformerConfig",
    "build_model",
    "read_config",
]
