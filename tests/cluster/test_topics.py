from __future__ import annotations

from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from limbeck.cluster.topics import class_tf_idf, label_terms, words


def test_a_weight_is_that_of_the_paper_worked_out_by_hand() -> None:
    # Cluster 0 has 6 words, cluster 1 has 4: A = 5. "a" occurs 5 times, "b" 3 times, "c" twice, "d" never.
    counts = np.array([[4.0, 0, 2, 0], [1, 3, 0, 0]])
    expected = [[4 * log(1 + 5 / 5), 0, 2 * log(1 + 5 / 2), 0], [1 * log(1 + 5 / 5), 3 * log(1 + 5 / 3), 0, 0]]
    assert class_tf_idf(csr_matrix(counts)).toarray() == pytest.approx(np.array(expected))


def test_terms_are_in_the_order_of_their_weights() -> None:
    texts = ["bee bee bee ant fly", "bee ant fly", "cow cow hen hen hen", "cow hen pig"]
    labels = np.array([0, 0, 1, 1])
    names = ["ant", "bee", "cow", "fly", "hen", "pig"]
    counts = np.array([[text.split().count(n) for n in names] for text in texts])
    weights = class_tf_idf(csr_matrix([counts[:2].sum(0), counts[2:].sum(0)])).toarray()
    found = label_terms(texts, labels, terms=3)
    assert found[0] == ["bee", "ant", "fly"]  # as heavy: by name
    assert [sorted(names, key=lambda n: (-w[names.index(n)], n))[:2] for w in weights] == [f[:2] for f in found]


def test_a_word_of_all_clusters_is_no_label_in_any_language() -> None:
    for the, things in (("the", ["river", "engine"]), ("und", ["fluss", "motor"]), ("και", ["ποτάμι", "κινητήρας"])):
        texts = [f"{the} {the} {the} {thing} {n}x" for n in range(8) for thing in things]
        assert label_terms(texts, np.tile([0, 1], 8)) == [[things[0]], [things[1]]]


def test_a_word_that_few_texts_have_by_chance_is_no_label() -> None:
    texts = [f"{'kiln' if n < 10 else 'loom'} {'maybe' if n in (0, 1, 19) else ''}" for n in range(20)]
    assert label_terms(texts, np.repeat([0, 1], 10)) == [["kiln"], ["loom"]]


def test_of_a_word_and_its_plural_one_is_taken() -> None:
    texts = ["tables table tables"] * 4 + ["chair"] * 4
    assert label_terms(texts, np.repeat([0, 1], 4)) == [["tables"], ["chair"]]


def test_one_cluster_has_a_label_and_noise_has_none() -> None:
    assert label_terms(["tea", "tea cup"], np.array([0, 0]), terms=1) == [["tea"]]
    assert label_terms(["oak", "oak", "elm", "elm", "tea"], np.array([0, 0, 1, 1, -1])) == [["oak"], ["elm"]]
    assert label_terms(["tea"], np.array([-1])) == []


@pytest.mark.parametrize("texts", [["", ""], ["12 34", "!?"], ["a b", "c"]])
def test_texts_without_words_have_no_terms(texts: list[str]) -> None:
    assert label_terms(texts, np.array([0, 1])) == [[], []]


def test_what_stands_far_down_a_text_is_not_read() -> None:
    assert label_terms(["tea " * 10 + "elm"] * 2, np.array([0, 0]), read_chars=40) == [["tea"]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't open file_name.py x2, 3 naïve CAFÉS!", ["don't", "open", "file", "name", "py", "x2", "naïve", "cafés"]),
        ("機械学習。東京", ["機械", "械学", "学習", "東京"]),
        ("猫 a", ["猫"]),
        ("हिन्दी में लिखा", ["हिन्दी", "में", "लिखा"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("Привет, мир", ["привет", "мир"]),
        ("ครับ", ["คร", "รั", "ับ"]),
        ("cafe\u0301", ["café"]),
        ("x" * 41, []),
    ],
)
def test_words_of_many_scripts(text: str, expected: list[str]) -> None:
    assert list(words(text)) == expected


@given(st.text())
def test_any_text_has_words_that_hold_no_space(text: str) -> None:
    assert all(word and not any(c.isspace() for c in word) for word in words(text))
