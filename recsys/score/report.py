"""The page on a night's lists: what was checked, models side by side, plots. One HTML file."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from recsys.checks import GREEN, STATUSES
from recsys.lake.judge import Past
from recsys.lake.quality import CheckResult
from recsys.score.comparison import Comparison
from recsys.score.gate import COVERAGE, GINI, OVERLAP

_WORST_FIRST = {status: at for at, status in enumerate(reversed(STATUSES))}
_SHOWN = ("ndcg_at_10", "hr_at_10", "mrr_at_10", "coverage_at_10", "novelty_at_10")


@dataclass(frozen=True)
class ModelFigures:
    """What ``evaluate`` has found of one model.

    Attributes:
        name: model, champion, anchor, popularity, …
        means: metric to value, as text.
        interval: of NDCG@10, low and high, as text.
    """

    name: str
    means: Mapping[str, str]
    interval: str


@dataclass(frozen=True)
class Page:
    """What the page shows.

    Attributes:
        found: both nights' lists.
        checks: of the lists and the model in charge.
        others: of the night's tables.
        models: side by side.
        gate: why the champion is what it is.
        past: by check what earlier nights found in gold/top_n, oldest first.
    """

    found: Comparison
    checks: Sequence[CheckResult]
    others: Sequence[CheckResult]
    models: Sequence[ModelFigures]
    gate: str
    past: Mapping[str, Sequence[Past]]


def render_page(page: Page) -> str:
    """The page as HTML, with plots inside; equal for equal input."""
    names = Environment(
        loader=PackageLoader("recsys.score", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    bad = [check for check in page.others if check.status != GREEN]
    checks = sorted([*page.checks, *bad], key=lambda check: _WORST_FIRST[check.status])
    return names.get_template("report.html").render(
        now=page.found.now,
        before=page.found.before,
        checks=checks,
        others=[check for check in page.others if check.status == GREEN],
        models=page.models,
        metrics=_SHOWN,
        gate=page.gate,
        plots=_draw(page),
    )


def _draw(page: Page) -> list[tuple[str, Markup]]:
    plots: list[tuple[str, Callable[[Any], None]]] = [
        ("How exposure spreads over the catalogue", lambda axes: _draw_lorenz(axes, page.found)),
        ("Scores of the model's items", lambda axes: _draw_scores(axes, page.found)),
    ]
    if len(page.found.overlaps):
        plots.append(("Kept of each user's list", lambda axes: _draw_overlaps(axes, page.found)))
    if any(page.past.get(name) for name in (COVERAGE, GINI, OVERLAP)):
        plots.append(("The last nights", lambda axes: _draw_past(axes, page)))
    return [(title, _svg(draw)) for title, draw in plots]


def _draw_lorenz(axes: Any, found: Comparison) -> None:
    for night, style in ((found.before, "--"), (found.now, "-")):
        if night is not None:
            axes.plot(*night.exposure.lorenz(), style, label=f"{night.run_date}")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    axes.set_xlabel("share of items, least shown first")
    axes.set_ylabel("share of places in lists")
    axes.legend()


def _draw_scores(axes: Any, found: Comparison) -> None:
    both = np.concatenate([found.scores_before, found.scores_now])
    if not len(both):
        return
    edges = np.histogram_bin_edges(both, bins=40)
    nights = [(found.before, found.scores_before), (found.now, found.scores_now)]
    for night, scores in nights:
        if night is not None and len(scores):
            label = f"{night.run_date}, version {night.model_version}"
            axes.hist(scores, edges, density=True, histtype="step", label=label)
    axes.set_xlabel("score")
    axes.set_ylabel("density")
    axes.legend()


def _draw_overlaps(axes: Any, found: Comparison) -> None:
    axes.hist(found.overlaps, np.linspace(0, 1, 21))
    axes.set_xlabel("share of the published list's items that stay")
    axes.set_ylabel("users")


def _draw_past(axes: Any, page: Page) -> None:
    today = {check.check: check.value for check in page.checks}
    for name in (COVERAGE, GINI, OVERLAP):
        nights = [(night.run_date, night.value) for night in page.past.get(name, ())]
        if today.get(name) is not None:
            nights.append((page.found.now.run_date, today[name]))
        axes.plot([str(day) for day, _ in nights], [value for _, value in nights], ".-", label=name)
    axes.tick_params(axis="x", rotation=60)
    axes.set_ylim(0, 1)
    axes.legend()


def _svg(draw: Callable[[Any], None]) -> Markup:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure, text = Figure(figsize=(6, 4), layout="constrained"), io.StringIO()
    FigureCanvasSVG(figure)
    draw(figure.subplots())
    with mpl.rc_context({"svg.hashsalt": "recsys", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    whole = text.getvalue()
    return Markup(whole[whole.index("<svg") :])  # drawn here, from numbers and dates
