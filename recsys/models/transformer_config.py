"""The shape of a sequence transformer, and what earlier releases wrote of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from recsys.models.shape import Shape

KIND = "transformer"
FORMER_KIND = "sasrec"


@dataclass(frozen=True)
class TransformerConfig(Shape):
    """Shape of a model; ``to_dict`` and ``from_dict`` are inverse to each other.

    Attributes:
        num_items: largest item_idx.
        max_length: most items the model looks at; older ones are dropped.
        dims: width of item vectors and blocks, a multiple of ``heads``.
        blocks: transformer blocks.
        heads: attention heads.
        dropout: share of embedding, attention and block outputs dropped in training.
        feed_forward: ``gelu`` or ``swiglu``.
        gated_residuals: what a sub-layer adds is gated by its input.
        positions: ``learned`` (added to the input), ``rotary``, ``relative`` or ``none``.
        time_gaps: attention depends on the time between events.
        event_types: the types of events are inputs.
        num_attributes, attribute_links: different attributes, and links from items to them.
        neighbor_links, neighbor_weight: links between items, and how much neighbours count.
        head: ``none``, or ``linear``: states pass a ``LinearHead`` (for fine-tuning).
        mask: a vector that stands for a masked item, which pre-training needs.
        predicted_attributes: attributes that pre-training predicts; 0 predicts none.
    """

    kind: ClassVar[str] = KIND

    num_items: int
    max_length: int
    dims: int
    blocks: int
    heads: int
    dropout: float
    feed_forward: str = "gelu"
    gated_residuals: bool = False
    positions: str = "learned"
    time_gaps: bool = False
    event_types: bool = False
    num_attributes: int = 0
    attribute_links: int = 0
    neighbor_links: int = 0
    neighbor_weight: float = 0.0
    head: str = "none"
    mask: bool = False
    predicted_attributes: int = 0

    def __post_init__(self) -> None:
        odd = self.positions == "rotary" and self.dims // self.heads % 2
        if self.num_items < 1 or self.max_length < 1 or self.dims % self.heads or odd:
            raise ValueError(f"impossible model: {self}")

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], num_items: int, max_length: int, **links: Any
    ) -> TransformerConfig:
        """Take the shape from ``settings.model``, the sizes (and ``links``) from the data."""
        return cls(**{**cls.pick(settings), **links}, num_items=num_items, max_length=max_length)

    @property
    def looks_at(self) -> tuple[str, ...]:
        """Names of what it needs of a user's events."""
        times = ("hours",) if self.time_gaps else ()
        return ("items", *times, *(("event_types",) if self.event_types else ()))

    @classmethod
    def _describes(cls, kind: Any, fields: set[str]) -> bool:
        """A configuration of an earlier release lacks later fields."""
        complete = cls.fields() - _LATEST_FIELDS <= fields <= cls.fields()
        former = kind == FORMER_KIND and fields == _FORMER_FIELDS
        return former or (kind == KIND and complete)


_FORMER_FIELDS = {"num_items", "max_length", "dims", "blocks", "heads", "dropout"}
_LATEST_FIELDS = {"head", "mask", "predicted_attributes"}
