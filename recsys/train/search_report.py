"""What a search has found, as a picture."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.config import Choice, Range, Space
from recsys.train.search import COMPLETE, PRUNED, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 3


def draw_search(
    trials: Sequence[Trial], space: Space, metric: str, higher_is_better: bool, path: Path
) -> None:
    """A PNG: the metric by trial with the best so far, and by the values of each setting.

    Args:
        trials: those without a value are left out.
        space: what was tried; one panel a setting.
        metric: name of the main metric.
        higher_is_better: of the metric.
        path: of the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = 1 + len(space)
    columns, rows = min(panels, _COLUMNS), math.ceil(panels / _COLUMNS)
    figure = Figure(figsize=(4 * columns, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[panels:]:
        spare.remove()
    known = [trial for trial in trials if trial.value is not None]
    _draw_history(axes[0], known, max if higher_is_better else min)
    for panel, (key, tried) in zip(axes[1:panels], space.items(), strict=True):
        _draw_setting(panel, known, key, tried)
    for panel in axes[:panels:columns]:
        panel.set_ylabel(metric)
    figure.savefig(path, dpi=100)


def _draw_history(axes: Axes, trials: Sequence[Trial], better: Callable[..., float]) -> None:
    done = sorted((t for t in trials if t.state == COMPLETE), key=lambda t: t.number)
    best = list(itertools.accumulate([t.value for t in done], better))
    axes.step([t.number for t in done], best, where="post", color="C2", label="best so far")
    _scatter(axes, trials, lambda t: t.number)
    axes.set_xlabel("trial")
    axes.legend()


def _draw_setting(axes: Axes, trials: Sequence[Trial], key: str, tried: Choice | Range) -> None:
    axes.set_xlabel(key)
    if isinstance(tried, Range):
        _scatter(axes, trials, lambda t: float(t.values[key]))
        if tried.log:
            _scale_by_logarithm(axes)
        return
    _scatter(axes, trials, lambda t: tried.values.index(t.values[key]))
    axes.set_xticks(range(len(tried.values)), [str(value) for value in tried.values])
    axes.set_xlim(-0.5, len(tried.values) - 0.5)


def _scale_by_logarithm(axes: Axes) -> None:
    """With ticks that can be read also within one power of ten."""
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_locator(NullLocator())


def _scatter(axes: Axes, trials: Sequence[Trial], place: Callable[[Trial], float]) -> None:
    for state, marker in ((COMPLETE, "o"), (PRUNED, "x")):
        chosen = [t for t in trials if t.state == state and t.value is not None]
        values = [t.value or 0.0 for t in chosen]
        axes.plot([place(t) for t in chosen], values, marker, color="C0", label=state)
