"""Settings of pre-training, and those of the first of two trainings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from recsys.config.section import Section

if TYPE_CHECKING:
    from recsys.config.settings import Settings


class Pretraining(Section):
    enabled: bool = Field(
        description="train twice: for the task pretraining first, then from these weights for "
        "train.task (transformer)"
    )
    learning_rate: float = Field(gt=0, description="of the first training (enabled)")
    max_epochs: int = Field(ge=1, description="passes of the first training at most (enabled)")
    patience: int = Field(
        ge=1, description="epochs without a better validation before its end (enabled)"
    )
    masked_weight: float = Field(
        ge=0,
        description="of items hidden from a pass that sees both sides; next item has 1",
    )
    masked_share: float = Field(gt=0, lt=1, description="share of next items that it hides")
    contrastive_weight: float = Field(
        ge=0, description="of telling two views of a window from other windows"
    )
    temperature: float = Field(gt=0, description="cosines of views are divided by it")
    crop_share: float = Field(gt=0, le=1, description="share of a window that a cropped view keeps")
    view_mask_share: float = Field(ge=0, lt=1, description="share of items that a view hides")
    reorder_share: float = Field(ge=0, le=1, description="share of a window that a view shuffles")
    attribute_weight: float = Field(
        ge=0, description="of the attributes of the next item (needs model.attributes)"
    )


def derive_pretraining(settings: Settings) -> Settings:
    """Those of the training that comes first: what is the night's own task's alone is set back."""
    first = settings.train.pretraining
    train = {
        "task": "pretraining",
        "label_share": 1.0,
        "learning_rate": first.learning_rate,
        "max_epochs": first.max_epochs,
        "patience": first.patience,
        "pretraining": first.model_copy(update={"enabled": False}),
    }
    return settings.model_copy(
        update={
            "model": settings.model.model_copy(update={"head": "none"}),
            "train": settings.train.model_copy(update=train),
            "ranker": settings.ranker.model_copy(update={"enabled": False}),
        }
    )
