"""Settings of the gate between a night's lists and their readers."""

from __future__ import annotations

from pydantic import Field, model_validator

from recsys.config.section import Section

Limits = tuple[float, float]
"""Yellow and red."""


class Gate(Section):
    """Lists beside those published before, and the model beside what it must not be worse than.

    Limits are pairs [yellow, red]: beyond the first the night warns, beyond the second its lists
    are not published (``quality.block_publish``). null turns a comparison off.
    """

    sample_users: int = Field(
        ge=1, description="users whose lists of both nights are compared one by one, chosen by hash"
    )
    fewer_lists: tuple[float, float] | None = Field(
        description="share of the published lists' number that is missing now"
    )
    lower_coverage: tuple[float, float] | None = Field(
        description="fall of catalogue coverage, as a share of the published lists' coverage"
    )
    higher_gini: tuple[float, float] | None = Field(
        description="rise of the Gini coefficient of items' exposure, absolute"
    )
    lower_overlap: tuple[float, float] | None = Field(
        description="overlap with a user's published list below which (mean share of its items; "
        "yellow is the larger number)"
    )
    score_drift: tuple[float, float] | None = Field(
        description="population stability index of the scores of one model, which should not move"
    )
    below_popularity: tuple[float, float] | None = Field(
        description="NDCG@10 of the model in charge below popularity's, as a share of it, where "
        "the difference is beyond chance (95% bootstrap interval)"
    )
    below_anchor: tuple[float, float] | None = Field(
        description="the same below the anchor: a model that stays the same over the nights (alias "
        "anchor in the registry; the first champion unless moved)"
    )

    @model_validator(mode="after")
    def _check_limits(self) -> Gate:
        for name in type(self).model_fields:
            limits = getattr(self, name)
            if not isinstance(limits, tuple):
                continue
            yellow, red = limits[::-1] if name == "lower_overlap" else limits
            if not 0 <= yellow <= red:
                rule = "0 <= red <= yellow" if name == "lower_overlap" else "0 <= yellow <= red"
                raise ValueError(f"gate.{name}={list(limits)} must be [yellow, red] with {rule}")
        return self
