"""What settings of different sections need of each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recsys.config.parallel import check_pipeline
from recsys.config.pretraining import derive_pretraining
from recsys.config.rules import check_rules
from recsys.config.training import FINE_TUNING, TASKS

if TYPE_CHECKING:
    from recsys.config.settings import Settings


def check_relations(settings: Settings) -> None:
    """Refuse settings that contradict each other.

    Raises:
        ValueError: it names the settings, their values, and what is allowed.
    """
    _check_shapes(settings)
    check_rules(settings.rules, settings.score.n, settings.privacy.user_attributes)
    _check_ranks(settings)
    check_pipeline(settings)
    _check_task(settings)
    _check_start(settings)
    _check_pretraining(settings)


def _check_shapes(settings: Settings) -> None:
    """Lengths, dims and tasks fit each other."""
    buckets = settings.gold.length_buckets
    model = settings.model
    ascend = list(buckets) == sorted(set(buckets)) and buckets[0] >= 1
    if not ascend or buckets[-1] != settings.gold.sequence_length:
        raise ValueError(
            f"gold.length_buckets={list(buckets)} must ascend from 1 or more and end with "
            f"gold.sequence_length={settings.gold.sequence_length}"
        )
    if settings.task not in TASKS[model.kind]:
        raise ValueError(
            f"train.task={settings.train.task} can't be learned by model.kind={model.kind}, "
            f"which learns {', '.join(TASKS[model.kind])}"
        )
    if settings.ranker.enabled and settings.task == "click_ranking":
        raise ValueError(
            f"ranker.enabled orders what another model finds: model.kind={model.kind} "
            "needs ranker.enabled=false"
        )
    if model.dims % model.heads:
        raise ValueError(f"model.heads={model.heads} must divide model.dims={model.dims}")
    if model.positions == "rotary" and model.dims // model.heads % 2:
        raise ValueError(
            f"model.positions=rotary turns pairs of dims: model.dims={model.dims} over "
            f"model.heads={model.heads} must be even"
        )
    if settings.generate.users <= settings.generate.categories // 2:
        raise ValueError("generate.users must be more than half of generate.categories")


def _check_ranks(settings: Settings) -> None:
    """The launcher can start so many ranks, and elastic ones."""
    train = settings.train
    if train.launcher == "single" and train.ranks != 1:
        raise ValueError(f"train.launcher=single needs train.ranks=1, not {train.ranks}")
    if train.elastic and train.launcher != "horovodrun":
        raise ValueError(
            f"train.min_ranks={train.min_ranks} (elastic) needs train.launcher=horovodrun, "
            f"not {train.launcher}"
        )
    for name in ("max_ranks", "discovery_script"):
        if getattr(train, name) is not None and not train.elastic:
            raise ValueError(f"train.{name} is for elastic training: set train.min_ranks too")
    for name in ("fusion_mb", "cycle_ms"):
        if train.elastic and getattr(train.exchange, name) is not None:
            # See rank_environment.
            raise ValueError(
                f"train.exchange.{name} can't be set for elastic training (train.min_ranks): "
                "Horovod can't start again with it; set it to null"
            )
    if train.elastic and not (train.min_ranks or 1) <= train.ranks <= train.most_ranks:
        raise ValueError(
            f"train.ranks={train.ranks}, with which an elastic training begins, must lie "
            f"between train.min_ranks={train.min_ranks} and train.max_ranks={train.max_ranks}"
        )


def _check_task(settings: Settings) -> None:
    """The kind of model, its head and the labels are those of the task."""
    model, train = settings.model, settings.train
    tuned = model.kind == "transformer" and settings.task in FINE_TUNING
    if model.head != "none" and not tuned:
        raise ValueError(
            f"model.head={model.head} is for the tasks {', '.join(FINE_TUNING)} of a "
            f"transformer, not for train.task={settings.task}"
        )
    if model.head == "none" and tuned and settings.task != "purchase":
        raise ValueError(f"train.task={settings.task} needs model.head=linear")
    if train.label_share < 1 and not tuned:
        raise ValueError(
            f"train.label_share={train.label_share} is for the tasks {', '.join(FINE_TUNING)} "
            f"of a transformer, not for train.task={settings.task}"
        )
    predicts = settings.task == "pretraining" and train.pretraining.attribute_weight > 0
    if predicts and not model.attributes:
        raise ValueError(
            f"train.pretraining.attribute_weight={train.pretraining.attribute_weight} needs "
            "model.attributes=true"
        )


def _check_start(settings: Settings) -> None:
    """What a training goes on from fits it."""
    model, train = settings.model, settings.train
    if train.online and (model.kind != "matrix_factorization" or not train.start_from):
        raise ValueError(
            f"train.online=true needs model.kind=matrix_factorization, not {model.kind}, and a "
            "model to go on from (train.start_from, champion say)"
        )
    if train.online and train.weight_decay:
        raise ValueError(
            f"train.weight_decay={train.weight_decay} moves what no new rating touches: "
            "set it to 0, or train.online=false"
        )
    if train.start_from == "champion" and model.kind == "transformer" and model.attributes:
        raise ValueError(
            "train.start_from=champion can't go with model.attributes=true: the words of "
            "attributes are numbered anew each night; set one of them off"
        )


def _check_pretraining(settings: Settings) -> None:
    """A training before the night's own can be made, and is not one already."""
    train = settings.train
    if not train.pretraining.enabled:
        return
    enabled = "train.pretraining.enabled=true"
    if settings.task == "pretraining":
        raise ValueError(
            f"{enabled} pre-trains for another task: set train.task to "
            f"{', '.join(name for name in TASKS['transformer'] if name != 'pretraining')}, or "
            "enabled to false"
        )
    if train.start_from:
        raise ValueError(
            f"{enabled} is what a training starts from: set train.start_from to null, not "
            f"{train.start_from}"
        )
    if settings.model.kind != "transformer":
        raise ValueError(f"{enabled} needs model.kind=transformer, not {settings.model.kind}")
    try:
        check_relations(derive_pretraining(settings))
    except ValueError as error:
        raise ValueError(f"{enabled}: {error}") from None
