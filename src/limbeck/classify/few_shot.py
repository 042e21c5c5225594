"""Labelled vectors → a head: regularised logistic regression, its strength and temperature found by cross-validation.

N: texts, D: dims, K: labels, G: strengths tried.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.classify.calibration import fit_temperature, log_loss
from limbeck.classify.head import Head, Label, targets_of
from limbeck.classify.report import Report, report_of
from limbeck.errors import ConfigError, DataError

STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0)  # scikit-learn's C on vectors of length 1: the larger, the freer
UNTRIED = 10.0  # the strength where too few examples are there to try several; the least log loss on two public sets
FOLDS = 5
TASK = "classification"  # the adapter whose vectors heads are fitted to, unless another is asked for
_STEPS = 2000  # of L-BFGS at most; a fit of vectors of length 1 takes some tens


@dataclass(frozen=True)
class Fitted:
    """A head and what is known of it."""

    head: Head
    strength: float  # C: of the log loss, summed over texts, against ½ |W|²
    report: Report | None  # None: fewer than two examples could be held out, so that nothing was tried or calibrated
    unscored: tuple[Label, ...]  # labels none of whose examples was held out


def fit(
    vectors: np.ndarray,
    labels: Sequence[Label],
    *,
    folds: int = FOLDS,
    strength: float | None = None,
    calibrate: bool = True,
    seed: int = 0,
    never_held_out: Sequence[bool] | None = None,
) -> Fitted:
    """Fit multinomial logistic regression with an L2 penalty on W.

    The examples are split into folds, each label evenly, and each fold is predicted by heads that were fitted to the
    others. These predictions choose the strength (the least log loss at its best temperature) and the temperature
    (`calibration.fit_temperature`). The report is of the same predictions, but there a fold's strength and temperature
    are those that the other folds choose, so that no text is scored by anything that was fitted to it. The head itself
    is fitted to all examples.

    How often a label is among the examples counts as how often it is among texts: balance the examples, or do not,
    accordingly. A label with one example is learnt from, and not scored.

    Args:
        vectors: [N, D], of length 1.
        labels: N, of at least two kinds.
        folds: at most, 2 or more; of labels with fewer examples, as many as the commonest has.
        strength: C > 0, if it is known; else chosen from STRENGTHS.
        calibrate: find a temperature; else it is 1.
        seed: of the split into folds.
        never_held_out: N; examples to learn from and not to score, such as a text that occurs twice.

    Raises DataError: as many labels as there are not vectors, vectors with NaN or infinity, fewer than two labels.
    ConfigError: folds < 2 or strength ≤ 0.
    """
    if folds < 2 or (strength is not None and not 0 < strength < np.inf):
        raise ConfigError(f"folds must be 2 or more and the strength above 0, got {folds} and {strength}")
    vectors = np.asarray(vectors, np.float64)
    if vectors.ndim != 2 or len(vectors) != len(labels):
        raise DataError(f"expected vectors [N, D] and N labels, got shape {list(vectors.shape)}, {len(labels)} labels")
    if not np.isfinite(vectors).all():
        raise DataError("vectors to fit a classifier to hold NaN or infinity: the model is damaged")
    counts = check_labels(labels)
    names: tuple[Label, ...] = tuple(sorted(counts))  # type: ignore[type-var]  # they are of one type
    targets = targets_of(labels, names)
    strengths = STRENGTHS if strength is None else (strength,)
    apart = np.zeros(len(labels), bool) if never_held_out is None else np.array(never_held_out, bool)
    held = _folds(targets, apart | (np.array([counts[label] for label in labels]) == 1), folds, seed)
    if held is None:
        chosen = UNTRIED if strength is None else strength
        return Fitted(_fitted(vectors, targets, names, [chosen])[0], chosen, None, names)
    scored = held >= 0
    logits = np.empty((len(strengths), len(targets), len(names)), np.float32)
    for fold in range(held.max() + 1):
        out = held == fold
        for g, head in enumerate(_fitted(vectors[~out], targets[~out], names, strengths)):
            logits[g, out] = head.logits(vectors[out])
    chosen, temperature = _choice(logits[:, scored], targets[scored], calibrate)
    head = _fitted(vectors, targets, names, [strengths[chosen]])[0].at(temperature)
    report = _report(logits[:, scored], targets[scored], held[scored], names, calibrate)
    unscored = tuple(label for i, label in enumerate(names) if i not in targets[scored])
    return Fitted(head, strengths[chosen], report, unscored)


def check_labels(labels: Sequence[Label]) -> Counter[Label]:
    """How many examples each label has. Raises DataError: fewer than two labels."""
    counts = Counter(labels)
    if len(counts) < 2:
        held = f"all {len(labels):,} examples have the label {labels[0]!r}" if len(labels) else "there are no examples"
        raise DataError(f"a classifier needs examples of two labels or more: {held}")
    return counts


def cross_calibrated(logits: np.ndarray, targets: np.ndarray, held: np.ndarray) -> NDArray[np.float64]:
    """Logits divided by the temperature that the other folds ask for. logits: [N, K]; targets, held (fold): [N]."""
    calibrated = np.asarray(logits, np.float64).copy()
    for fold in np.unique(held):
        out = held == fold
        if not out.all():
            calibrated[out] /= fit_temperature(logits[~out], targets[~out])
    return calibrated


def folds_of(targets: np.ndarray, folds: int = FOLDS, seed: int = 0) -> NDArray[np.intp]:
    """The fold of each text, every label spread evenly, whatever its number of texts. targets: [N] → [N]."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(targets))
    order = order[np.argsort(targets[order], kind="stable")]  # label after label, each in a random order
    held = np.empty(len(targets), np.intp)
    held[order] = np.arange(len(targets)) % folds  # neighbours, so the texts of a label, are in different folds
    return held


def _folds(targets: np.ndarray, apart: np.ndarray, folds: int, seed: int) -> NDArray[np.intp] | None:
    """The fold of each text, −1 for those that are never held out; None where fewer than two could be."""
    scored = ~apart
    if scored.sum() < 2:
        return None
    held = np.full(len(targets), -1, np.intp)
    held[scored] = folds_of(targets[scored], min(folds, max(2, int(np.bincount(targets[scored]).max()))), seed)
    return held


def _fitted(
    vectors: np.ndarray, targets: np.ndarray, names: tuple[Label, ...], strengths: Sequence[float]
) -> list[Head]:
    """A head for each strength, from the least free to the freest, each beginning where the last one ended."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model: Any = LogisticRegression(warm_start=True, max_iter=_STEPS)
    heads = []
    for strength in strengths:
        model.set_params(C=strength)
        with warnings.catch_warnings():
            # only where vectors are not of length 1; the log loss of held-out texts tells how good the result is
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(vectors, targets)
        weight, bias = model.coef_, model.intercept_
        if len(names) == 2:  # scikit-learn has one row then, that of the second label
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        heads.append(Head(names, weight.astype(np.float32), bias.astype(np.float32)))
    return heads


def _choice(logits: np.ndarray, targets: np.ndarray, calibrate: bool) -> tuple[int, float]:
    """The place of the best strength, and its temperature. logits: [G, N, K]."""
    temperatures = [fit_temperature(each, targets) if calibrate else 1.0 for each in logits]
    losses = [log_loss(each / t, targets) for each, t in zip(logits, temperatures, strict=True)]
    best = int(np.argmin(losses))
    return best, temperatures[best]


def _report(
    logits: np.ndarray, targets: np.ndarray, held: np.ndarray, names: tuple[Label, ...], calibrate: bool
) -> Report:
    """Each fold by what the others choose. logits: [G, N, K]."""
    before = np.empty(logits.shape[1:])
    after = np.empty_like(before)
    for fold in np.unique(held):
        out = held == fold
        chosen, temperature = _choice(logits[:, ~out], targets[~out], calibrate)
        before[out] = logits[chosen, out]
        after[out] = before[out] / temperature
    on = f"out of fold, {len(np.unique(held))} folds"
    return report_of(on, after, targets, names, before=before if calibrate else None)
