"""Figures of a night's lists as a whole: how exposure spreads over items, how scores moved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Exposure:
    """In how many lists the items of a catalogue are.

    Attributes:
        times: different numbers of lists, ascending, int64 [k]; 0 is among them where an item is
            in no list.
        items: how many items are in so many lists, int64 [k].
    """

    times: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]

    @property
    def catalogue(self) -> int:
        """Number of items, shown or not."""
        return int(self.items.sum())

    @property
    def coverage(self) -> float:
        """Share of the catalogue that is in at least one list, 0 to 1 (``metrics.coverage``)."""
        shown = int(self.items[self.times > 0].sum())
        return shown / self.catalogue if self.catalogue else 0.0

    def lorenz(self) -> tuple[FloatArray, FloatArray]:
        """The Lorenz curve: share of the catalogue (least shown first), their share of places."""
        items = np.cumsum([0, *self.items]).astype(np.float64)
        places = np.cumsum([0, *(self.items * self.times)]).astype(np.float64)
        return items / max(items[-1], 1.0), places / max(places[-1], 1.0)

    def gini(self) -> float:
        """Gini coefficient of exposure: 0 is alike for all items, near 1 is all for one.

        Twice the area between the diagonal and the Lorenz curve. Source: Fleder and Hosanagar 2009,
        "Blockbuster culture's next rise or fall", section 3.2.
        """
        if not (self.items * self.times).any():
            return 0.0
        items, places = self.lorenz()
        return float(1.0 - (np.diff(items) * (places[1:] + places[:-1])).sum())


def count_exposure(shown: dict[int, int], catalogue: int) -> Exposure:
    """Exposure from the number of items that are in so many lists; the rest of them is in none.

    Args:
        shown: times (1 or more) to items.
        catalogue: number of items in all.
    """
    times = np.array(sorted(shown), dtype=np.int64)
    items = np.array([shown[int(count)] for count in times], dtype=np.int64)
    silent = catalogue - int(items.sum())
    if silent > 0:
        times, items = np.append(0, times), np.append(silent, items)
    return Exposure(times, items)


def population_stability(
    before: npt.NDArray[np.floating], now: npt.NDArray[np.floating], bins: int = 10
) -> float:
    """Population stability index of two samples, 0 for equal ones.

    The sum over ``bins`` of (q - p) ln(q / p), where p and q are the shares of both samples between
    the quantiles of ``before``; half a value is added to each bin, so that none is empty.
    Source: Siddiqi 2006, "Credit Risk Scorecards", chapter 9 (below 0.1 nothing moved, above 0.25
    much did).
    """
    if not len(before) or not len(now):
        return 0.0
    edges = np.unique(np.quantile(before, np.linspace(0, 1, bins + 1)[1:-1]))
    counts = [
        np.bincount(np.searchsorted(edges, part, side="right"), minlength=len(edges) + 1) + 0.5
        for part in (before, now)
    ]
    p, q = (count / count.sum() for count in counts)
    return float(((q - p) * np.log(q / p)).sum())
