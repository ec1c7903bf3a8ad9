"""What an elastic training goes on from, in each rank's memory, when ranks come or go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


class Commits:
    """The newest committed content of a training; its state and ``Learner.state_dict``.

    ``check`` is called after each commit and raises where ranks have come or are to go.
    """

    def __init__(self) -> None:
        self.check: Callable[[], None] = lambda: None
        self._content: dict[str, Any] | None = None

    def keep(self, content: Mapping[str, Any]) -> None:
        """Commit a copy of ``content`` (tensors and plain values) in the host's memory."""
        self._content = _copy(content)
        self.check()

    def last(self) -> dict[str, Any] | None:
        """A copy of what was committed last (a training changes what it loads), or None."""
        return None if self._content is None else _copy(self._content)


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copy(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_copy, value))
    return value
