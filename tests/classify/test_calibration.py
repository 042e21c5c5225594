"""Temperatures and the calibration error, against values worked out by hand and truths known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.classify.calibration import calibration_error, fit_temperature, log_loss
from limbeck.classify.head import log_softmax, softmax


def drawn(n: int, k: int = 4, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is exactly how often each label is right."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, k))
    targets = (softmax(logits).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return logits, targets


@pytest.mark.parametrize("wrong_by", [0.1, 0.3, 3.0, 10.0])
def test_the_temperature_that_logits_were_multiplied_by_is_found_again(wrong_by: float) -> None:
    logits, targets = drawn(20_000, seed=0)
    assert fit_temperature(logits * wrong_by, targets) == pytest.approx(wrong_by, rel=0.05)


@pytest.mark.parametrize("wrong_by", [0.2, 5.0])
def test_on_other_texts_calibrated_logits_have_a_lower_log_loss_and_error_and_the_same_first_label(
    wrong_by: float,
) -> None:
    logits, targets = drawn(2_000, seed=1)
    other, right = drawn(5_000, seed=2)
    calibrated = other * wrong_by / fit_temperature(logits * wrong_by, targets)
    assert log_loss(calibrated, right) < log_loss(other * wrong_by, right) - 0.1
    assert calibration_error(calibrated, right) < 0.03 < 0.1 < calibration_error(other * wrong_by, right)
    assert np.array_equal(calibrated.argmax(axis=1), other.argmax(axis=1))


def test_a_few_texts_that_are_all_right_do_not_make_it_sure_of_everything() -> None:
    logits = np.array([[3.0, 0.0], [0.0, 3.0], [2.0, 0.0], [0.0, 2.0]])
    calibrated = softmax(logits / fit_temperature(logits, np.array([0, 1, 0, 1])))
    assert 0.7 < calibrated.max(axis=1).mean() < 0.95  # (4 + 1) / (4 + 2) = 0.83


def test_logits_that_say_nothing_become_equal_probabilities() -> None:
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(4_000, 3)), rng.integers(0, 3, 4_000)
    assert np.abs(softmax(logits / fit_temperature(logits, targets)) - 1 / 3).max() < 0.1


def test_the_error_is_the_one_worked_out_by_hand() -> None:
    logits = np.log(np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.3, 0.7]]))
    targets = np.array([0, 1, 0, 1])
    # bins of a third: (1/3, 2/3] holds 0.6, right; (2/3, 1] holds 0.9 right, 0.9 wrong and 0.7 right
    by_hand = (abs(1 - 0.6) + abs(2 - (0.9 + 0.9 + 0.7))) / 4
    assert calibration_error(logits, targets, bins=3) == pytest.approx(by_hand)


def test_the_log_loss_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import log_loss as theirs

    logits, targets = drawn(50, seed=3)
    assert log_loss(logits, targets) == pytest.approx(theirs(targets, softmax(logits), labels=range(4)))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 30), st.integers(2, 5), st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_any_logits_have_a_finite_temperature_above_zero(n: int, k: int, seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    temperature = fit_temperature(size * rng.normal(size=(n, k)), rng.integers(0, k, n))
    assert 0 < temperature < np.inf


def test_huge_logits_stay_finite() -> None:
    assert np.isfinite(log_softmax(np.array([[1e8, 0.0, -1e8]]))).all()
