from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from dictated import Dictated, corpus_of

from limbeck.compress import to_bits
from limbeck.dedup import corpus as module
from limbeck.dedup.corpus import read_corpus
from limbeck.encoding.reading import Row
from limbeck.errors import ConfigError, DataError


def model_of(*texts: str, dims: int = 16) -> Any:
    draw = np.random.default_rng(3)
    return Dictated({text: draw.normal(size=dims) for text in texts})


def rows_of(*texts: str, ids: list[Any] | None = None) -> Iterator[Row]:
    return (Row(text, ids and ids[i], f"line {i + 1}") for i, text in enumerate(texts))


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_each_different_text_is_encoded_once_and_every_row_can_be_read_again(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    model = model_of("a", "b", "ü\n")
    done = []
    with read_corpus(
        model, rows_of("b", "a", "b", "ü\n", "a", ids=["p", "q", "r", "s", "t"]), progress=done.append
    ) as corpus:
        assert corpus.text_of.tolist() == [0, 1, 0, 2, 1] and corpus.first_row.tolist() == [0, 1, 3]
        assert [corpus.rows[i] for i in (4, 0, 3)] == [("t", "a"), ("p", "b"), ("s", "ü\n")]
        assert corpus.lengths.tolist() == [1, 1, 2] and corpus.text(2) == "ü\n"
        expected = model.encode(["b", "a", "ü\n"], task=None, dim=None)
        np.testing.assert_allclose(corpus.vectors, expected, atol=1e-3)
        np.testing.assert_array_equal(corpus.bits, to_bits(expected))
    assert sum(done) == 5
    assert sorted(sum(model.calls[:-1], [])) == ["a", "b", "ü\n"] and set(model.asked[:-1]) == {"text-matching"}


def test_bits_are_of_the_first_256_dims_that_eight_divides() -> None:
    for dims, bits in [(300, 256), (30, 24), (8, 8)]:
        with corpus_of(np.random.default_rng(0).normal(size=(3, dims))) as corpus:
            assert corpus.bits.shape == (3, bits // 8) and corpus.vectors.shape == (3, dims)
    with pytest.raises(ConfigError, match="8 dims or more, got 4"), read_corpus(model_of("a"), rows_of("a"), dim=4):
        pass


def test_auto_is_settled_by_the_first_texts() -> None:
    with read_corpus(model_of("a", "b"), rows_of("a", "b"), task="auto") as corpus:
        assert corpus.task == {"retrieval": 1.0}


def test_cosines_of_pairs_are_those_of_the_vectors() -> None:
    vectors = np.random.default_rng(1).normal(size=(5, 8))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    with corpus_of(vectors) as corpus:
        found = corpus.cosines(np.array([0, 3, 4, 2]), np.array([1, 1, 0, 2]))
    np.testing.assert_allclose(found, [unit[0] @ unit[1], unit[3] @ unit[1], unit[4] @ unit[0], 1], atol=1e-3)
    assert found.max() <= 1


@pytest.mark.parametrize(
    ("texts", "ids", "message"),
    [
        (["a", "b", "a"], ["x", "y", "x"], "line 3: the id 'x' came before"),
        (["a", "b"], [7, 7], "line 2: the id 7 came before"),
        (["a"], ["\ud800"], r"line 1: the id '\\ud800' is not valid Unicode"),
        (["a", "\ud800"], None, "line 2 is not valid Unicode"),
        (["a", "zero"], None, "line 2 has a vector that is all zeros"),
    ],
)
def test_what_does_not_fit_names_its_line(texts: list[str], ids: Any, message: str) -> None:
    model = model_of("a", "b")
    model.vectors["zero"] = np.zeros(16)
    with pytest.raises(DataError, match=message), read_corpus(model, rows_of(*texts, ids=ids)):
        pass
