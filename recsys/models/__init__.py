"""Torch models and their losses: no I/O, no ranks, no Spark."""

from recsys.models.click_ranker import ClickRanker, ClickRankerConfig
from recsys.models.collaborative_network import CollaborativeNetwork, CollaborativeNetworkConfig
from recsys.models.contract import DotProductRecommender, Inputs, ModelConfig, Recommender
from recsys.models.items import Links
from recsys.models.matrix_factorization import MatrixFactorization, MatrixFactorizationConfig
from recsys.models.registry import build_model, class_of, read_config
from recsys.models.transformer import SequenceTransformer
from recsys.models.transformer_config import TransformerConfig
from recsys.models.two_tower import TwoTower, TwoTowerConfig

__all__ = [
    "ClickRanker",
    "ClickRankerConfig",
    "CollaborativeNetwork",
    "CollaborativeNetworkConfig",
    "DotProductRecommender",
    "Inputs",
    "Links",
    "MatrixFactorization",
    "MatrixFactorizationConfig",
    "ModelConfig",
    "Recommender",
    "SequenceTransformer",
    "TransformerConfig",
    "TwoTower",
    "TwoTowerConfig",
    "build_model",
    "class_of",
    "read_config",
]
