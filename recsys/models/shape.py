"""Shapes of models as plain values and back: what their configurations have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self


class Shape:
    """For dataclasses that satisfy ``ModelConfig``; ``to_dict`` and ``from_dict`` are inverse."""

    kind: ClassVar[str]

    @classmethod
    def fields(cls) -> set[str]:
        """Names of the fields."""
        return {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]

    @classmethod
    def pick(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Those of ``settings`` that are fields."""
        return {name: value for name, value in settings.items() if name in cls.fields()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return {"kind": self.kind, **dataclasses.asdict(self)}  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of ``to_dict``; lists are tuples again.

        Raises:
            ValueError: another kind of model, or fields are missing or unknown.
        """
        fields = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
            if name != "kind"
        }
        if not cls._describes(values.get("kind"), set(fields)):
            raise ValueError(f"not a configuration of a {cls.kind}: {dict(values)}")
        return cls(**fields)

    @classmethod
    def _describes(cls, kind: Any, fields: set[str]) -> bool:
        return kind == cls.kind and fields == cls.fields()
