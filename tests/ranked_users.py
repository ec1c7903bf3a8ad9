"""Users with histories, a model, and what a ranker without batches makes of them."""

from __future__ import annotations

import numpy as np
import torch

from recsys.models import SequenceTransformer
from recsys.models.transformer_config import TransformerConfig

KNOWN, ITEMS, USERS, N = 20, 25, 30, 6
SILENT, NEWCOMER, COMPLETE, FAN = 28, 27, 26, 25


def random_model(items: int = KNOWN) -> SequenceTransformer:
    torch.manual_seed(5)
    config = TransformerConfig(
        num_items=items, max_length=4, dims=8, blocks=1, heads=2, dropout=0.1
    )
    model = SequenceTransformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
        model.item_embedding.weight[0] = 0
    return model.eval()


def popularity() -> np.ndarray:
    """Items 3 and 4 are as popular as each other, item 9 was never seen."""
    values = np.arange(ITEMS + 1, dtype=np.float32)
    values[[0, 3, 4, 9]] = 0, 30, 30, 0
    return values


def naive(
    model: SequenceTransformer, history: list[int], seen: list[int], n: int
) -> list[tuple[int, bool]]:
    """One user without batches: (item, from the model?) best first."""
    weights = popularity()
    allowed = {i for i in range(1, ITEMS + 1) if weights[i] > 0} - set(seen)
    known = [item for item in history if item <= KNOWN][-4:]
    found: list[int] = []
    if known:
        with torch.inference_mode():
            scores = (model.encode(torch.tensor([known])) @ model.item_vectors().T)[0]
        ranked = sorted(range(1, KNOWN + 1), key=lambda i: (-float(scores[i]), i))
        found = [item for item in ranked if item in allowed][:n]
    rest = sorted(allowed - set(found), key=lambda i: (-weights[i], i))
    return [(i, True) for i in found] + [(i, False) for i in rest[: n - len(found)]]


def make_histories() -> dict[int, tuple[list[int], list[int]]]:
    """user_idx to (last items, all seen items)."""
    random = np.random.default_rng(3)
    found = {}
    for user in range(1, FAN):
        items = random.integers(1, ITEMS + 1, size=random.integers(1, 9)).tolist()
        found[user] = (items, sorted(set(items) | set(random.integers(1, ITEMS + 1, 3).tolist())))
    found[FAN] = ([1, 2, 3], [i for i in range(1, ITEMS + 1) if i not in (7, 22)])
    found[COMPLETE] = ([5, 6], list(range(1, ITEMS + 1)))
    found[NEWCOMER] = ([21, 22, 25], [21, 22, 25])
    return found


HISTORIES = make_histories()
