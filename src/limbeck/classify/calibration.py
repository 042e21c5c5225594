"""One temperature that makes probabilities mean what they say, and the error that is left.  N: texts, K: labels."""

from __future__ import annotations

import math

import numpy as np

from limbeck.classify.head import log_softmax, softmax

BINS = 15  # of the expected calibration error, as in the paper
_LOW, _HIGH = 1e-4, 1e3  # temperatures; logits may be cosines, whose best one is some hundredths


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The temperature whose probabilities have the least log loss (Guo et al. 2017, arXiv 1706.04599).

    The targets are smoothed as in Platt (1999): the right label counts (N + 1) / (N + 2) and the others share the rest.
    Else logits that happen to be right on every one of a few texts would ask for a temperature of 0, and the classifier
    would be sure of everything.

    Args:
        logits: [N, K], of texts that their head was not fitted to. N ≥ 1, K ≥ 2.
        targets: [N], places of the right labels.
    """
    from scipy.optimize import minimize_scalar

    n, k = logits.shape
    logits = np.asarray(logits, np.float64)
    # the cross entropy against smoothed targets needs two numbers of a row: its right logit and the mean of the others
    right = logits[np.arange(n), targets]
    others = (logits.sum(axis=1) - right) / (k - 1)
    expected = ((n + 1) * right + others) / (n + 2)
    shifted = logits - logits.max(axis=1, keepdims=True)
    expected = expected - logits.max(axis=1)

    def loss(log_temperature: float) -> float:
        t = math.exp(log_temperature)
        return float(np.mean(np.log(np.exp(shifted / t).sum(axis=1)) - expected / t))

    found = minimize_scalar(loss, bounds=(math.log(_LOW), math.log(_HIGH)), method="bounded", options={"xatol": 1e-4})
    return math.exp(found.x)


def log_loss(logits: np.ndarray, targets: np.ndarray) -> float:
    """Mean of −log probability of the right label, in nats. logits: [N, K], N ≥ 1; targets: [N]."""
    return float(-log_softmax(logits)[np.arange(len(targets)), targets].mean())


def calibration_error(logits: np.ndarray, targets: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: how far, on average, the first label's probability is from how often it is right.

    Texts are put into `bins` of equal width by that probability; each bin's |accuracy − mean probability| counts by its
    texts (Guo et al. 2017, equation 3). On few texts it is above 0 even where probabilities are perfect.

    Args:
        logits: [N, K], N ≥ 1.
        targets: [N].
        bins: how many.
    """
    probabilities = softmax(logits)
    sure = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == targets
    place = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)  # (lower, upper]
    gap = np.bincount(place, sure - right, minlength=bins)
    return float(np.abs(gap).sum() / len(targets))
