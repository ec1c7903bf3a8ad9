"""Start a training from an earlier model's weights instead of from chance."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from recsys.bundle import load_bundle
from recsys.errors import TrainingError
from recsys.models import Recommender

log = logging.getLogger(__name__)


@torch.no_grad()
def copy_weights(model: Recommender, bundle_dir: str) -> None:
    """Give ``model`` the weights of an earlier one, as far as they reach.

    Tables that have grown since (items, users) take the rows that there were; the others keep what
    they were drawn with. Weights that the earlier model had not (a new head) stay too.

    Args:
        model: untrained, its links set.
        bundle_dir: the earlier model.

    Raises:
        RecsysError: the bundle can't be read.
        TrainingError: the two share no weight, or one has another shape.
    """
    earlier, info = load_bundle(bundle_dir)
    weights, own = dict(earlier.named_parameters()), dict(model.named_parameters())
    shared = [name for name in own if name in weights]
    if not shared:
        raise TrainingError(
            "the model to start from shares no weight with this one",
            where=bundle_dir,
            do="start from a model of the same kind",
        )
    for name in shared:
        if not _fits(weights[name], own[name]):
            raise TrainingError(
                f"{name} has shape {tuple(weights[name].shape)} in the model to start from, "
                f"{tuple(own[name].shape)} in this one",
                where=bundle_dir,
                do="train with the settings of that model (section model), or start from chance",
            )
        own[name][: len(weights[name])] = weights[name].to(own[name].device)
    log.info(
        "starting from the model of %s: %d of %d weights", info.run_date, len(shared), len(own)
    )


def _fits(earlier: Tensor, own: Tensor) -> bool:
    grown = own.ndim > 1 and len(own) > len(earlier)
    return earlier.shape == own.shape or (grown and earlier.shape[1:] == own.shape[1:])
