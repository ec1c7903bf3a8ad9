"""The click ranker beside a night's model: its training, derived from the model's."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from recsys import schemas
from recsys.config import Settings
from recsys.lake.pinning import pin_training_table
from recsys.steps.context import Context
from recsys.train.job import TrainingJob


def ranker_settings(context: Context) -> str:
    """What a night's model depends on beside its own settings: nothing where it has no ranker."""
    ranker = context.settings.ranker
    return ranker.model_dump_json() if ranker.enabled else ""


def make_ranker_job(context: Context, job: TrainingJob, force: bool) -> TrainingJob:
    """The ranker's training: the same windows and items as the model's, a folder of its own.

    It is no run in MLflow by itself: its figures are details of the step, its weights a part of
    the model's bundle.

    Args:
        context: of the night.
        job: the training of the model whose lists are re-ranked.
        force: forget an earlier training.
    """
    version = context.written("build_gold", schemas.GOLD_TRAINING_SEQUENCES)
    folder = Path(f"{job.checkpoint_dir}-ranker")
    if force:
        shutil.rmtree(folder, ignore_errors=True)
    return replace(
        job,
        settings=derive_settings(job.settings),
        table=pin_training_table(context.lake, version),
        fingerprint=f"{job.fingerprint}-ranker",
        checkpoint_dir=str(folder),
        bundle_dir=str(folder / "bundle"),
        tracking_uri=None,
        start_from="",
    )


def derive_settings(settings: Settings) -> Settings:
    """Those of the ranker's training: what is the model's alone is set back."""
    ranker = settings.ranker
    train = {
        "task": "click_ranking",
        "label_share": 1.0,
        "pretraining": settings.train.pretraining.model_copy(update={"enabled": False}),
        "start_from_popularity": True,  # it is one of the ranker's features
        "learning_rate": ranker.learning_rate,
        "weight_decay": ranker.weight_decay,
        "max_epochs": ranker.max_epochs,
        "patience": ranker.patience,
    }
    return settings.model_copy(
        update={
            "model": settings.model.model_copy(update={"kind": "click_ranker", "head": "none"}),
            "train": settings.train.model_copy(update=train),
            "ranker": ranker.model_copy(update={"enabled": False}),
        }
    )


def read_metrics(details: Mapping[str, str]) -> dict[str, float]:
    """The ranker's figures among the step's details, as MLflow names them."""
    return {
        name.replace(" ", "_"): float(value)
        for name, value in details.items()
        if name.startswith("ranker ")
    }
