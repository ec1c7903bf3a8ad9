"""How good predicted probabilities are, and their correction: AUC, log-loss, ECE, Platt scaling.

All is computed from counts of logits in fine bins, which any number of ranks can add up: memory
and messages do not grow with the rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BINS = 1 << 16
LARGEST_LOGIT = 16.0
"""Logits beyond it count as it (a chance of 1e-7)."""
BIN_WIDTH = 2.0 * LARGEST_LOGIT / BINS
"""Resolution, 1/2048: rows whose logits lie closer may count as tied."""

_CENTRES: Floats = (np.arange(BINS) + 0.5) * BIN_WIDTH - LARGEST_LOGIT
_ECE_BINS = 15
_NEWTON_STEPS = 100


class Platt(NamedTuple):
    """The calibrated logit is ``slope`` * logit + ``bias``."""

    slope: float
    bias: float


UNCHANGED = Platt(1.0, 0.0)


def count_logits(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.bool_]) -> Floats:
    """Rows by label and bin of their logit, float64 [2, BINS]; the second row is of positives."""
    places = np.floor((logits.astype(np.float64) + LARGEST_LOGIT) / BIN_WIDTH)
    places = np.clip(places, 0, BINS - 1).astype(np.int64)
    return np.stack(
        [
            np.bincount(places[labels == label], minlength=BINS).astype(np.float64)
            for label in (False, True)
        ]
    )


def auc(counts: Floats) -> float:
    """Share of pairs of a positive and a negative that are in order; a tie counts half.

    0.5 where one of the labels does not occur.

    Args:
        counts: of ``count_logits``.

    Source: Hanley and McNeil 1982, section "Wilcoxon statistic".
    """
    negatives, positives = counts
    pairs = negatives.sum() * positives.sum()
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + 0.5 * negatives)).sum() / pairs) if pairs else 0.5


def log_loss(*parts: tuple[Floats, Platt]) -> float:
    """Mean of -log of the label's probability over all parts, nats a row; NaN without rows.

    Args:
        parts: counts, and how their logits are calibrated.
    """
    lost = rows = 0.0
    for (negatives, positives), platt in parts:
        z = _logits(platt)
        lost += (positives * np.logaddexp(0.0, -z) + negatives * np.logaddexp(0.0, z)).sum()
        rows += (positives + negatives).sum()
    return float(lost / rows) if rows else float("nan")


def log_loss_of_rate(counts: Floats) -> float:
    """Mean loss of who predicts the share of positives for every row: the labels' entropy."""
    shares = counts.sum(axis=1) / max(1.0, counts.sum())
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def calibration_error(*parts: tuple[Floats, Platt]) -> float:
    """Expected calibration error: how far shares of positives lie from predicted probabilities.

    The mean over 15 equal bins of probability, weighted by their rows, of |share of positives -
    mean probability|; NaN without rows. Source: Guo et al. 2017, "On Calibration of Modern Neural
    Networks", section 2.

    Args:
        parts: counts, and how their logits are calibrated.
    """
    excess, rows = np.zeros(_ECE_BINS), 0.0
    for counts, platt in parts:
        chances = 1.0 / (1.0 + np.exp(-_logits(platt)))
        bins = np.minimum((chances * _ECE_BINS).astype(np.int64), _ECE_BINS - 1)
        predicted = counts.sum(axis=0) * chances
        excess += np.bincount(bins, counts[1] - predicted, minlength=_ECE_BINS)
        rows += float(counts.sum())
    return float(np.abs(excess).sum() / rows) if rows else float("nan")


def fit_platt(counts: Floats) -> Platt:
    """Slope and bias with the least log-loss on rows that the model was not trained on.

    The slope is not negative: logits that order rows worse than chance get slope 0, and every row
    the share of positives. Targets are Platt's (one more row of each label), so that logits which
    separate the labels have a finite slope; Newton's method, halving steps that do not help.

    Source: Platt 1999, "Probabilistic Outputs for Support Vector Machines", section 2.1; with Lin
    et al. 2007, "A note on Platt's probabilistic outputs".
    """
    negatives, positives = counts
    rows, place = counts.sum(axis=0), counts.sum(axis=0) > 0
    n0, n1 = negatives.sum(), positives.sum()
    high, low = (n1 + 1.0) / (n1 + 2.0), 1.0 / (n0 + 2.0)
    z, rows = _CENTRES[place], rows[place]
    wanted = (high * positives + low * negatives)[place]
    rate = float(np.log((n1 + 1.0) / (n0 + 1.0)))
    found = np.array([0.0, rate])

    def loss(at: Floats) -> float:
        y = at[0] * z + at[1]
        return float((rows * np.logaddexp(0.0, y) - wanted * y).sum())

    for _ in range(_NEWTON_STEPS):
        chance = 1.0 / (1.0 + np.exp(-(found[0] * z + found[1])))
        error, curve = rows * chance - wanted, rows * chance * (1.0 - chance)
        gradient = np.array([(error * z).sum(), error.sum()])
        mixed = (curve * z).sum()
        hessian = np.array([[(curve * z * z).sum(), mixed], [mixed, curve.sum()]])
        step = np.linalg.solve(hessian + 1e-9 * np.eye(2), gradient)
        before, size = loss(found), 1.0
        while size > 1e-6 and loss(found - size * step) > before:
            size /= 2.0
        if size <= 1e-6:
            break
        found = found - size * step
        if np.abs(step).max() < 1e-10:
            break
    slope, bias = (float(value) for value in found)
    return Platt(slope, bias) if slope > 0.0 else Platt(0.0, rate)


def _logits(platt: Platt) -> Floats:
    return platt.slope * _CENTRES + platt.bias
