"""Torch models and their losses: no I/O, no ranks, no Spark."""

from recsys.models.registry import build_model
from recsys.models.sasrec import SASRec, SASRecConfig

__all__ = ["SASRec", "SASRecConfig", "build_model"]
