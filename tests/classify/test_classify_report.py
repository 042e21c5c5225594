"""Scores of a classifier, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from limbeck.classify.report import report_of


def test_scores_and_matrix_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    targets, logits = rng.integers(0, 4, 200), rng.normal(size=(200, 5))  # no text has the fifth label
    logits[np.arange(200), targets] += 1
    given = logits.argmax(axis=1)
    report = report_of("texts", logits, targets, list("abcde"))
    assert report.confusion == metrics.confusion_matrix(targets, given, labels=range(5)).tolist()
    assert report.accuracy == pytest.approx(metrics.accuracy_score(targets, given))
    assert report.macro_f1 == pytest.approx(metrics.f1_score(targets, given, labels=range(4), average="macro"))
    precision, recall, f1, texts = metrics.precision_recall_fscore_support(
        targets, given, labels=range(5), zero_division=0
    )
    assert [s.texts for s in report.labels] == texts.tolist()
    for found, theirs in (("precision", precision), ("recall", recall), ("f1", f1)):
        assert [getattr(s, found) for s in report.labels] == pytest.approx(theirs.tolist())
    assert report.always_the_commonest == np.bincount(targets).max() / 200


def test_a_wide_matrix_is_told_by_what_is_confused_most() -> None:
    targets = np.arange(40) % 20
    logits = np.eye(20)[np.where(targets == 3, 7, targets)] * 5
    lines = list(report_of("texts", logits, targets, [f"label {i}" for i in range(20)]).lines())
    assert lines[-1] == "      2  label 3 taken for label 7"
    assert "confused most (the whole matrix: --json)" in lines


def test_a_narrow_matrix_is_shown_with_rows_of_right_labels() -> None:
    lines = list(report_of("texts", np.eye(2)[[0, 1, 1]] * 3, np.array([0, 0, 1]), ["yes", "no"]).lines())
    assert [line.split() for line in lines[-2:]] == [["yes", "1", "1"], ["no", "·", "1"]]
