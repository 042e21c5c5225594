"""Heads from labelled vectors: what is fitted, what is chosen, and that nothing is scored on what it was fitted to."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from toy import clouds

from limbeck.classify import few_shot
from limbeck.classify.few_shot import FOLDS, STRENGTHS, UNTRIED, fit, folds_of
from limbeck.errors import ConfigError, DataError


@pytest.mark.parametrize("labels", [2, 3])
def test_at_a_known_strength_probabilities_are_those_of_scikit_learn(labels: int) -> None:
    vectors, targets = clouds(20, labels=labels)
    head = fit(vectors, targets.tolist(), strength=5.0, calibrate=False).head
    theirs = LogisticRegression(C=5.0, max_iter=1000).fit(vectors, targets).predict_proba(vectors)
    assert head.temperature == 1 and head.labels == tuple(range(labels))
    assert np.allclose(head.probabilities(vectors), theirs, atol=1e-3)


def test_calibration_changes_no_label_and_lowers_the_log_loss_of_other_texts() -> None:
    vectors, targets = clouds(12, spread=0.7)
    other, right = clouds(400, spread=0.7, seed=1)
    free = fit(vectors, targets.tolist(), strength=1000.0, calibrate=False).head  # so free that it is sure of itself
    calibrated = fit(vectors, targets.tolist(), strength=1000.0).head
    assert calibrated.temperature > 1.5
    assert np.array_equal(free.probabilities(other).argmax(axis=1), calibrated.probabilities(other).argmax(axis=1))
    loss = [-np.log(h.probabilities(other)[np.arange(len(right)), right]).mean() for h in (free, calibrated)]
    assert loss[1] < loss[0] - 0.05


def test_the_report_promises_what_other_texts_keep() -> None:
    vectors, targets = clouds(60, spread=0.8)
    other, right = clouds(1000, spread=0.8, seed=1)
    fitted = fit(vectors, targets.tolist())
    assert fitted.report is not None
    kept = (fitted.head.logits(other).argmax(axis=1) == right).mean()
    assert fitted.report.accuracy == pytest.approx(kept, abs=0.08)
    assert fitted.report.ece < fitted.report.ece_before or fitted.report.ece < 0.08


def test_labels_that_mean_nothing_are_not_said_to_be_known() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 64))  # more dims than texts: any labels can be fitted without a mistake
    fitted = fit(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), rng.permutation([0, 1] * 30).tolist())
    assert fitted.report is not None and fitted.report.accuracy < 0.7
    assert (fitted.head.probabilities(vectors).max(axis=1) < 0.9).mean() > 0.5


def test_no_text_is_predicted_by_what_it_was_fitted_to(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, targets = clouds(7)
    seen: list[set[bytes]] = []
    real = few_shot._fitted

    def spied(part: np.ndarray, *rest: object) -> object:
        heads = real(part, *rest)  # type: ignore[arg-type]
        seen.append({row.tobytes() for row in part})
        for head in heads:
            logits = head.logits
            told = seen[-1]

            def checked(asked: np.ndarray, logits=logits, told=told) -> np.ndarray:
                assert not {row.tobytes() for row in asked} & told
                return logits(asked)

            object.__setattr__(head, "logits", checked)
        return heads

    monkeypatch.setattr(few_shot, "_fitted", spied)
    report = fit(vectors, targets.tolist()).report
    assert report is not None and report.texts == 21
    assert [len(part) for part in seen[:-1]] == [21 - n for n in (5, 4, 4, 4, 4)] and len(seen[-1]) == 21


def test_a_label_with_one_example_is_learnt_and_not_scored() -> None:
    vectors, targets = clouds(10)
    keep = [*range(20), 25]
    fitted = fit(vectors[keep], [["x", "y", "z"][i] for i in targets[keep]])
    assert fitted.head.labels == ("x", "y", "z") and fitted.unscored == ("z",)
    assert fitted.report is not None and [s.texts for s in fitted.report.labels] == [10, 10, 0]
    assert fitted.report.texts == 20
    assert fitted.head.labels[int(fitted.head.logits(vectors[[25]])[0].argmax())] == "z"


def test_one_example_of_each_label_makes_a_classifier_that_knows_nothing_of_itself() -> None:
    fitted = fit(np.eye(3), ["a", "b", "c"])
    assert (fitted.report, fitted.head.temperature, fitted.strength) == (None, 1.0, UNTRIED)
    assert fitted.unscored == ("a", "b", "c")
    assert fitted.head.probabilities(np.eye(3)).argmax(axis=1).tolist() == [0, 1, 2]


def test_texts_that_are_never_to_be_held_out_are_not() -> None:
    vectors, targets = clouds(6)
    apart = [i in (0, 6, 7) for i in range(18)]
    fitted = fit(vectors, targets.tolist(), never_held_out=apart)
    assert fitted.report is not None and [s.texts for s in fitted.report.labels] == [5, 4, 6]


def test_two_fits_are_equal_and_the_order_of_the_labels_does_not_matter() -> None:
    vectors, targets = clouds(8)
    names = [["c", "a", "b"][i] for i in targets]
    first, again = fit(vectors, names), fit(vectors, names)
    assert first.head.labels == ("a", "b", "c")
    assert np.array_equal(first.head.weight, again.head.weight) and first.report == again.report
    assert first.strength in STRENGTHS


@pytest.mark.parametrize("counts", [[2, 2], [2, 30], [3, 7, 2], [5, 5, 5, 5], [11, 2, 2, 2]])
def test_every_label_is_in_the_examples_of_every_fold(counts: list[int]) -> None:
    targets = np.repeat(np.arange(len(counts)), counts)
    held = folds_of(targets, min(FOLDS, max(counts)))
    for fold in np.unique(held):
        assert set(targets[held != fold]) == set(targets)
    for label, n in enumerate(counts):
        spread = np.bincount(held[targets == label], minlength=held.max() + 1)
        assert spread.max() - spread.min() <= 1, n


@pytest.mark.parametrize(
    ("vectors", "labels", "message"),
    [
        (np.eye(3), ["a", "a", "a"], "all 3 examples have the label 'a'"),
        (np.empty((0, 3)), [], "there are no examples"),
        (np.eye(3), ["a", "b"], "3 labels|2 labels"),
        (np.full((2, 2), np.nan), ["a", "b"], "NaN"),
    ],
)
def test_what_cannot_be_fitted_is_said(vectors: np.ndarray, labels: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit(vectors, labels)


@pytest.mark.parametrize("wrong", [{"folds": 1}, {"strength": 0.0}, {"strength": float("inf")}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="folds must be 2 or more and the strength above 0"):
        fit(np.eye(2), ["a", "b"], **wrong)  # type: ignore[arg-type]
