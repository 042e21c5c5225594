"""Vectors on disk, and at a width and precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluation_sets import WordCounts

from limbeck.compress import Int8Grid, hamming_similarity, to_bits, truncate
from limbeck.errors import ModelError
from limbeck.evaluation.vectors import Compressor, VectorCache


def unit(count: int, dim: int = 24, seed: int = 0) -> np.ndarray:
    return truncate(np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32), dim)


# -------------------------------------------------------------------------------------------- cache


def test_a_kept_vector_is_the_models_own_to_the_last_bits_of_a_float32(tmp_path: Path) -> None:
    subject, texts = WordCounts(), ["a cat", "two dogs", "three birds and a cat"]
    found = VectorCache(tmp_path).vectors(subject, texts, role="query", adapter=None)
    expected = truncate(np.stack([subject.vector(t, "query") for t in texts]), subject.dim)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=2**-23)


def test_a_text_is_encoded_once_for_each_adapter_and_role_however_often_it_is_asked_for(tmp_path: Path) -> None:
    subject = WordCounts(adapters=["retrieval"])
    cache = VectorCache(tmp_path)
    asked = [(None, None), ("query", None), ("document", None), ("query", "retrieval")]
    first = [cache.vectors(subject, ["a", "b", "a"], role=role, adapter=adapter) for role, adapter in asked]
    assert subject.texts == ["a", "b"] * len(asked)
    again = VectorCache(tmp_path)  # another process
    for (role, adapter), vectors in zip(asked, first, strict=True):
        assert np.array_equal(again.vectors(subject, ["a", "b", "a"], role=role, adapter=adapter), vectors)
    assert len(subject.texts) == 2 * len(asked)


def test_models_do_not_get_each_others_vectors(tmp_path: Path) -> None:
    cache = VectorCache(tmp_path)
    cache.vectors(WordCounts("one"), ["a"], role=None, adapter=None)
    other = WordCounts("other")
    cache.vectors(other, ["a"], role=None, adapter=None)
    assert other.texts == ["a"]


def test_time_and_texts_are_counted_only_where_something_was_encoded(tmp_path: Path) -> None:
    subject, cache = WordCounts(), VectorCache(tmp_path)
    for _ in range(2):
        cache.vectors(subject, ["a", "b"], role=None, adapter=None)
    assert cache.spent[subject.fingerprint(None)].texts == 2
    assert cache.spent[subject.fingerprint(None)].seconds > 0


@pytest.mark.parametrize(("value", "kind"), [(np.nan, "NaN or infinity"), (np.inf, "NaN or infinity"), (0, "zeros")])
def test_a_vector_without_a_direction_is_an_error_that_names_model_and_text(
    tmp_path: Path, value: float, kind: str
) -> None:
    class Broken(WordCounts):
        def vector(self, text: str, role: str | None = None) -> np.ndarray:
            return super().vector(text, role) * 0 + value if text == "bad" else super().vector(text, role)

    cache = VectorCache(tmp_path)
    with pytest.raises(ModelError, match=f"words gives 1 of 2 texts a vector of {kind}, the first of them 'bad'"):
        cache.vectors(Broken(), ["good", "bad"], role=None, adapter=None)
    assert len(cache.vectors(Broken(), ["good"], role=None, adapter=None)) == 1  # and nothing bad was kept


def test_vectors_of_another_width_than_the_model_has_are_an_error(tmp_path: Path) -> None:
    subject = WordCounts()
    subject.dim = 65
    subject.vector = lambda *_: np.ones(64, np.float32)  # type: ignore[method-assign]
    with pytest.raises(ModelError, match=r"shape \(1, 64\), expected \(1, 65\)"):
        VectorCache(tmp_path).vectors(subject, ["a"], role=None, adapter=None)


# ---------------------------------------------------------------------------------------- precision


def test_float32_is_truncation() -> None:
    vectors = unit(5)
    assert np.array_equal(Compressor(8, "float32")(vectors), truncate(vectors, 8))


def test_binary_dot_products_are_the_hamming_similarity() -> None:
    left, right = unit(5), unit(7, seed=1)
    compress = Compressor(16, "binary")
    bits = hamming_similarity(to_bits(truncate(left, 16)), to_bits(truncate(right, 16)))
    np.testing.assert_allclose(compress(left) @ compress(right).T, bits, atol=1e-6)


def test_the_first_stored_vectors_set_the_int8_grid_and_later_ones_keep_to_it() -> None:
    documents, more = (truncate(unit(count, seed=seed), 24) for count, seed in ((50, 0), (4, 1)))
    grid = Int8Grid.fit(documents)
    compress = Compressor(24, "int8")
    np.testing.assert_allclose(compress(documents), grid.decode(grid.encode(documents)), atol=1e-6)
    np.testing.assert_allclose(compress(more), grid.decode(grid.encode(more)), atol=1e-6)
    assert 1e-4 < np.abs(compress(documents) - documents).max() < 0.005  # near, and not the same


def test_a_query_stays_float_in_int8_and_sets_no_grid() -> None:
    documents, queries = unit(50), unit(4, seed=1)
    compress = Compressor(24, "int8")
    np.testing.assert_allclose(compress(queries, stored=False), queries, atol=1e-6)
    np.testing.assert_allclose(compress(documents), Compressor(24, "int8")(documents), atol=1e-6)


def test_a_constant_dimension_gives_numbers_in_int8() -> None:
    vectors = unit(20)
    vectors[:, 3] = 0
    assert np.isfinite(Compressor(24, "int8")(vectors)).all()
