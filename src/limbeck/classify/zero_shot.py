"""Label names and descriptions → a head, without any example.  N: texts, K: labels, D: dims."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from limbeck.classify.calibration import fit_temperature
from limbeck.classify.examples import Described
from limbeck.classify.few_shot import cross_calibrated, folds_of
from limbeck.classify.head import Head, Label, targets_of
from limbeck.classify.report import Report, report_of
from limbeck.encoding.vectors import Model, Task, vectors_of

SCALE = 12.0
"""Cosines are multiplied by this before the softmax, where no examples tell better: the middle of what suited the
demo's model on three public sets (kinds of questions, of bank requests, of film reviews). Other models, and other
texts, may want another one, which `calibrated` finds."""

TASK = "clustering"
"""The adapter whose vectors compare texts with labels, unless another is asked for. On those sets the four adapters
were about as often right, but the scales that suited "classification" were so far apart that no one would have done."""


def head_of(model: Model, labels: Sequence[Described], *, task: Task, dim: int, scale: float = SCALE) -> Head:
    """Compare texts with what the labels say: softmax(scale · cosine).

    Args:
        model: encodes the labels, as documents.
        labels: K ≥ 2.
        task: a settled one.
        dim: of the vectors.
        scale: > 0.

    Raises DataError that names the label whose name or description cannot be encoded.
    """
    texts = [each.text for each in labels]
    vectors = vectors_of(model, texts, [f"the label {each.label!r}" for each in labels], task=task, dim=dim)
    bias = np.zeros(len(labels), np.float32)
    return Head(tuple(each.label for each in labels), vectors.astype(np.float32), bias, 1 / scale)


def calibrated(head: Head, vectors: np.ndarray, labels: Sequence[Label]) -> tuple[Head, Report]:
    """The same head at the scale that examples ask for, and what they say of it.

    In the report, each fold of the examples has the scale that the other folds ask for.

    Args:
        head: of `head_of`.
        vectors: [N, D], N ≥ 2.
        labels: N, known to the head.
    """
    targets = targets_of(labels, head.labels)
    logits = head.logits(vectors)
    held = folds_of(targets, min(5, len(targets)))
    after = cross_calibrated(logits, targets, held)
    report = report_of(
        f"examples, scale from {len(np.unique(held))} folds",
        after,
        targets,
        head.labels,
        before=logits / head.temperature,
    )
    return head.at(fit_temperature(logits, targets)), report
