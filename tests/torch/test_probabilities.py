"""AUC, log-loss, calibration error and Platt scaling against what they are by definition."""

import numpy as np
import pytest

from recsys.ranking.probabilities import (
    BIN_WIDTH,
    UNCHANGED,
    Platt,
    auc,
    calibration_error,
    count_logits,
    fit_platt,
    log_loss,
    log_loss_of_rate,
)

pytestmark = pytest.mark.torch


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def test_auc_counts_pairs_in_order_and_ties_half() -> None:
    random = np.random.default_rng(2)
    logits, labels = random.integers(-3, 4, 200) / 2.0, random.random(200) < 0.4
    pairs = [
        1.0 if p > n else 0.5 if p == n else 0.0 for p in logits[labels] for n in logits[~labels]
    ]
    assert auc(count_logits(logits, labels)) == pytest.approx(np.mean(pairs), abs=1e-12)


def test_auc_of_any_logits_is_right_to_the_resolution() -> None:
    random = np.random.default_rng(3)
    logits, labels = random.normal(size=500) * 3, random.random(500) < 0.3
    order = logits[labels][:, None] - logits[~labels][None]
    near = np.mean(np.abs(order) < BIN_WIDTH)
    found = auc(count_logits(logits, labels))
    assert found == pytest.approx(np.mean(order > 0), abs=near + 1e-12)
    # Beyond the bins all are alike, and nothing is lost.
    far = count_logits(np.array([-99.0, 99.0, -np.inf]), np.array([False, True, False]))
    assert (auc(far), far.sum()) == (1.0, 3)
    assert auc(count_logits(logits[:5], np.zeros(5, dtype=bool))) == 0.5


def test_log_losses_are_those_of_their_definition() -> None:
    random = np.random.default_rng(4)
    logits, labels = random.normal(size=300), random.random(300) < 0.2
    counts, platt = count_logits(logits, labels), Platt(2.0, -0.5)
    for given, chance in ((UNCHANGED, sigmoid(logits)), (platt, sigmoid(2 * logits - 0.5))):
        expected = -np.log(np.where(labels, chance, 1 - chance)).mean()
        assert log_loss((counts, given)) == pytest.approx(expected, abs=BIN_WIDTH)
    rate = labels.mean()
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert log_loss_of_rate(counts) == pytest.approx(entropy)
    # Two parts are as one with the rows of both.
    parts = [(count_logits(logits[i::2], labels[i::2]), UNCHANGED) for i in range(2)]
    assert log_loss(*parts) == pytest.approx(log_loss((counts, UNCHANGED)))


def test_calibration_error_is_the_gap_between_said_and_seen() -> None:
    logit = np.log(0.7 / 0.3)
    labels = np.arange(10) < 4  # 70% were said, 40% were seen
    assert calibration_error((count_logits(np.full(10, logit), labels), UNCHANGED)) == (
        pytest.approx(0.3, abs=BIN_WIDTH)
    )


def test_platt_scaling_undoes_a_planted_distortion() -> None:
    random = np.random.default_rng(5)
    truth = random.normal(size=40_000) * 1.5 - 1
    labels = random.random(len(truth)) < sigmoid(truth)
    distorted = 3.0 * truth + 2.0
    counts = count_logits(distorted, labels)
    platt = fit_platt(counts)
    assert platt.slope == pytest.approx(1 / 3, rel=0.05)
    assert platt.bias == pytest.approx(-2 / 3, abs=0.05)
    assert calibration_error((counts, UNCHANGED)) > 0.1
    assert calibration_error((counts, platt)) < 0.01
    assert log_loss((counts, platt)) < log_loss((counts, UNCHANGED))


def test_logits_that_say_nothing_or_the_opposite_become_the_rate() -> None:
    random = np.random.default_rng(6)
    logits, labels = random.normal(size=1000), random.random(1000) < 0.25
    against = fit_platt(count_logits(np.where(labels, -1.0, 1.0) + 0.1 * logits, labels))
    assert against.slope == 0.0
    assert sigmoid(np.array(against.bias)) == pytest.approx(labels.mean(), abs=0.01)
    # Logits that separate the labels have no finite best slope; Platt's targets give them one.
    apart = fit_platt(count_logits(np.where(labels, 1.0, -1.0), labels))
    assert 0 < apart.slope < 20
    assert fit_platt(count_logits(logits[:0], labels[:0])) == Platt(0.0, 0.0)
