"""Torch models and their losses: no I/O, no ranks, no Spark."""

from recsys.models.registry import build_model
from recsys.models.transformer import SequenceTransformer, TransformerConfig

__all__ = ["SequenceTransformer", "TransformerConfig", "build_model"]
