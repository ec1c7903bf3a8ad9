"""What all groups of settings have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A group of settings; unknown keys are refused, values can't be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
