"""Start a training from an earlier model's weights instead of from chance."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from recsys.bundle import load_bundle, load_config
from recsys.config import Settings
from recsys.errors import TrainingError
from recsys.models import Recommender, build_model
from recsys.train.job import TrainingJob
from recsys.train.models import make_model

log = logging.getLogger(__name__)

_MAY_DIFFER = {"dropout", "neighbor_weight", "head"}
"""Settings of a model that change nothing of what the weights of both mean."""


@torch.no_grad()
def copy_weights(model: Recommender, job: TrainingJob) -> Tensor:
    """Give ``model`` the weights of the one that ``job`` starts from, as far as they reach.

    Tables that have grown since (items, users) take the rows that there were; the others keep what
    they were drawn with. Weights that the earlier model had not (a new head) stay too.

    Args:
        model: untrained, its links set.
        job: names the bundle, and the items that are new to it.

    Returns:
        Items that the earlier model has learned nothing of, bool [num_items + 1].

    Raises:
        RecsysError: the bundle can't be read.
        TrainingError: the two share no weight, or one has another shape.
    """
    earlier, info = load_bundle(job.start_from)
    misfit = _compare_shapes(earlier, model)
    if misfit:
        raise _refuse(misfit, job.start_from)
    weights, own = dict(earlier.named_parameters()), dict(model.named_parameters())
    shared = [name for name in own if name in weights]
    for name in shared:
        own[name][: len(weights[name])] = weights[name].to(own[name].device)
    log.info(
        "starting from the model of %s: %d of %d weights", info.run_date, len(shared), len(own)
    )
    new = torch.arange(job.num_items + 1) > info.num_items
    new[torch.tensor(job.new_items, dtype=torch.int64)] = True
    return new


def find_misfit(job: TrainingJob, bundle_dir: str) -> str:
    """Why ``job`` can't go on from a model, in words that follow its name; empty where it can.

    Only shapes are made: this costs no memory, whatever the size of the model.

    Raises:
        RecsysError: the bundle can't be read.
    """
    config, settings = load_config(bundle_dir), job.settings.model
    shape = config.to_dict()
    if shape["kind"] != settings.kind:
        return f"is of kind {shape['kind']}, model.kind is {settings.kind}"
    with torch.device("meta"):
        earlier, own = build_model(config), make_model(job)
    changed = _find_changed(shape, settings.model_dump(), own.config.to_dict())
    return changed or _compare_shapes(earlier, own)


def set_warm_schedule(settings: Settings) -> Settings:
    """The settings of a training that goes on from a model: fewer epochs in smaller steps."""
    train = settings.train
    epochs = min(train.max_epochs, train.warm_max_epochs)
    changes = {
        "max_epochs": train.online_epochs if train.online else epochs,
        "learning_rate": train.learning_rate * train.warm_learning_rate_share,
    }
    return settings.model_copy(update={"train": train.model_copy(update=changes)})


def _find_changed(
    shape: Mapping[str, Any], settings: Mapping[str, Any], own: Mapping[str, Any]
) -> str:
    for name in sorted(shape.keys() & settings.keys() & own.keys() - _MAY_DIFFER):
        if shape[name] != own[name]:
            return f"has {name} {shape[name]}, model.{name} is {own[name]}"
    return ""


def _compare_shapes(earlier: nn.Module, model: nn.Module) -> str:
    weights, own = dict(earlier.named_parameters()), dict(model.named_parameters())
    shared = [name for name in own if name in weights]
    if not shared:
        return "shares no weight with this one"
    for name in shared:
        if not _fits(weights[name], own[name]):
            shapes = (tuple(part[name].shape) for part in (weights, own))
            return "has {} of shape {}, this one of {}".format(name, *shapes)
    return ""


def _fits(earlier: Tensor, own: Tensor) -> bool:
    grown = own.ndim > 1 and len(own) > len(earlier)
    return earlier.shape == own.shape or (grown and earlier.shape[1:] == own.shape[1:])


def _refuse(misfit: str, bundle_dir: str) -> TrainingError:
    return TrainingError(
        f"the model to start from {misfit}",
        where=bundle_dir,
        do="train with the settings of that model (section model), or start from chance",
    )
