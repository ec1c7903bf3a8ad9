"""What the tasks of fine-tuning share: whose labels are used, and what the feed must hold.

``train.label_share`` takes the labels of a share of the users, a user of a small share being in
every larger one.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recsys.train.batch import Batch
from recsys.train.job import TrainingJob
from recsys.train.rows import Channels

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)


def needed_channels(job: TrainingJob, event_types: bool = False, labels: bool = False) -> Channels:
    """What the model looks at, what weighs events, the labels, and whose they are if some go."""
    model, train = job.settings.model, job.settings.train
    return Channels(
        hours=train.recency_half_life_days is not None or model.time_gaps,
        event_types=event_types or model.event_types,
        labels=labels,
        user_idx=train.label_share < 1.0,
    )


def choose_labelled(batch: Batch, share: float, seed: int) -> Tensor:
    """Positions of the batch whose user is in the share, int64 [positions]."""
    if share >= 1.0:
        return batch.positions
    assert batch.user_idx is not None, "the feed was asked for users"
    row = batch.positions // max(1, batch.items.shape[1] - 1)
    return batch.positions[in_share(batch.user_idx, share, seed)[row]]


def in_share(user_idx: Tensor, share: float, seed: int) -> Tensor:
    """Users whose hash, even in [0, 1), is below ``share``, bool [users].

    The hash is SplitMix64 (Steele, Lea and Flood 2014, figure 15) of index and seed: it depends on
    neither share nor order, so smaller shares lie within larger ones.
    """
    with np.errstate(over="ignore"):
        z = user_idx.cpu().numpy().astype(np.uint64)
        z = (z + np.uint64(seed & 0xFFFFFFFF) * np.uint64(1 << 32)) * _GAMMA
        for shift, factor in _MIX:
            z = (z ^ (z >> shift)) * factor
        z ^= z >> np.uint64(31)
    return torch.from_numpy((z >> np.uint64(11)).astype(np.float64) / float(1 << 53) < share)
