"""Labels by what they are called and mean."""

from __future__ import annotations

import numpy as np
import pytest
from toy import LetterModel

from limbeck.classify.examples import Described, parse_labels, read_labels
from limbeck.classify.head import softmax
from limbeck.classify.zero_shot import SCALE, calibrated, head_of
from limbeck.errors import ConfigError, DataError

LABELS = [Described("a", "aaa"), Described("b_c"), Described("h")]


def test_probabilities_are_the_softmax_of_scaled_cosines_with_what_labels_say() -> None:
    model = LetterModel()
    head = head_of(model, LABELS, task="clustering", dim=8)
    assert model.calls == [["a: aaa", "b c", "h"]]
    vectors = model.encode(["abab", "hhh"], task="clustering")
    cosines = vectors @ model.encode(["a: aaa", "b c", "h"], task="clustering").T
    assert np.allclose(head.probabilities(vectors), softmax(SCALE * cosines), atol=1e-6)
    assert [head.labels[i] for i in head.logits(vectors).argmax(axis=1)] == ["a", "h"]


def test_examples_choose_the_scale_and_no_other_label() -> None:
    model = LetterModel()
    head = head_of(model, LABELS, task="clustering", dim=8, scale=0.5)
    vectors = model.encode(["aaa", "bc", "hh", "aab", "cb", "hhhb"] * 3, task="clustering")
    made, report = calibrated(head, vectors, ["a", "b_c", "h"] * 6)
    assert 1 / made.temperature > 3 and np.array_equal(made.weight, head.weight)
    assert report.accuracy == 1 and report.log_loss < report.log_loss_before
    assert report.texts == 18


def test_labels_of_a_command_line_and_of_a_file(tmp_path) -> None:
    found = [Described("bug", "it = broken"), Described("wish")]
    assert parse_labels(["bug = it = broken", "wish"]) == found
    (tmp_path / "l.jsonl").write_text('{"label": "bug", "description": "it = broken"}\n\n"wish"\n')
    assert read_labels(str(tmp_path / "l.jsonl")) == found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "two labels or more, got 1: a"),
        (["a", "b", "a=x"], "the label 'a' is given twice"),
        (["a", "=x"], "expected NAME or NAME=DESCRIPTION, got '=x'"),
    ],
)
def test_labels_that_do_not_fit_are_named(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_labels(words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"a"\n{"name": "b"}\n', "l.jsonl:2: expected"),
        ('"a"\n{"label": true}\n', "l.jsonl:2: expected"),
        ('"a"\n{"label": " "}\n', "l.jsonl:2: expected"),
        ('"a"\nb\n', "l.jsonl:2: not JSON"),
        ('"a"\n{"label": "b", "description": 3}\n', "l.jsonl:2: the description of 'b' is no text: 3"),
        ('"a"\n"\\ud800"\n', "l.jsonl:2: the label .* is not valid Unicode"),
    ],
)
def test_a_file_of_labels_names_the_line_that_does_not_fit(text: str, message: str, tmp_path) -> None:
    (tmp_path / "l.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        read_labels(str(tmp_path / "l.jsonl"))


def test_a_file_of_labels_that_is_absent_or_in_another_encoding_is_said(tmp_path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_labels(str(tmp_path / "none.jsonl"))
    (tmp_path / "l.jsonl").write_bytes('"größer"\n'.encode("latin1"))
    with pytest.raises(DataError, match="not UTF-8"):
        read_labels(str(tmp_path / "l.jsonl"))


def test_numbers_and_text_are_not_mixed(tmp_path) -> None:
    (tmp_path / "l.jsonl").write_text('{"label": 1}\n"1"\n')
    with pytest.raises(ConfigError, match="all text or all whole numbers"):
        read_labels(str(tmp_path / "l.jsonl"))


def test_a_label_that_cannot_be_encoded_is_named() -> None:
    with pytest.raises(DataError, match="the label 'b' is not valid Unicode"):
        head_of(LetterModel(), [Described("a"), Described("b", "\ud800")], task="clustering", dim=8)
