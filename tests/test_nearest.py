import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck import compress, nearest
from limbeck.compress import hamming_similarity, to_bits, truncate
from limbeck.errors import ConfigError, DataError


def _brute(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(scores, order, axis=1)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(nearest, "QUERY_BLOCK", 3)
    monkeypatch.setattr(nearest, "DOCUMENT_BLOCK", 7)
    monkeypatch.setattr(nearest, "FEW_QUERIES_BLOCK", 21)
    monkeypatch.setattr(compress, "_CACHED_ROWS", 4)


@given(st.integers(1, 9), st.integers(1, 60), st.integers(1, 25), st.integers(0, 10_000))
def test_blockwise_search_equals_a_stable_sort_of_the_full_matrix_with_many_ties(q, n, k, seed):
    rng = np.random.default_rng(seed)
    # Whole numbers: products are exact, and ties are many.
    queries, documents = (rng.integers(-2, 3, (rows, 4)).astype(np.float32) for rows in (q, n))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "QUERY_BLOCK", 3)
        patch.setattr(nearest, "DOCUMENT_BLOCK", 7)
        hits = nearest.top_k(queries, documents, k)
    indices, scores = _brute(queries @ documents.T, k)
    np.testing.assert_array_equal(hits.indices, indices)
    np.testing.assert_array_equal(hits.scores, scores)


@pytest.mark.parametrize("dims", [32, 128])
@pytest.mark.parametrize("count", [1, 10])
def test_search_over_bits_equals_a_sort_by_hamming_similarity(small_blocks, count, dims):
    rng = np.random.default_rng(1)
    queries, documents = to_bits(rng.standard_normal((count, dims))), to_bits(rng.standard_normal((50, dims)))
    hits = nearest.top_k_bits(queries, documents, 12)
    indices, scores = _brute(hamming_similarity(queries, documents), 12)
    np.testing.assert_array_equal(hits.indices, indices)
    np.testing.assert_allclose(hits.scores, scores, atol=1e-6)


def test_bits_rescored_over_all_documents_equal_the_exact_search(small_blocks):
    rng = np.random.default_rng(2)
    queries, documents = (truncate(rng.standard_normal((rows, 64)), 64) for rows in (8, 40))
    coarse = nearest.top_k_bits(to_bits(queries), to_bits(documents), 40)
    fine, exact = nearest.rescore(coarse, queries, documents, 5), nearest.top_k(queries, documents, 5)
    np.testing.assert_array_equal(fine.indices, exact.indices)
    np.testing.assert_allclose(fine.scores, exact.scores, atol=1e-6)


def test_fewer_documents_than_k_are_all_found_and_none_give_no_hits():
    queries = np.eye(3, dtype=np.float32)
    assert nearest.top_k(queries, queries[:2], 10).indices.shape == (3, 2)
    assert nearest.top_k(queries, queries[:0], 10).indices.shape == (3, 0)
    assert nearest.top_k(queries[:0], queries, 10).indices.shape == (0, 3)


def test_half_precision_documents_are_multiplied_in_float32():
    rng = np.random.default_rng(3)
    queries, documents = rng.standard_normal((2, 16)), rng.standard_normal((30, 16)).astype(np.float16)
    hits = nearest.top_k(queries, documents, 3)
    _, scores = _brute(queries.astype(np.float32) @ documents.astype(np.float32).T, 3)
    np.testing.assert_allclose(hits.scores, scores, rtol=1e-6)


def test_the_full_matrix_is_never_held():
    rng = np.random.default_rng(4)
    queries, documents = (rng.standard_normal((rows, 8)).astype(np.float32) for rows in (1024, 65_536))
    tracemalloc.start()
    nearest.top_k(queries, documents, 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1024 * 65_536 * 4 / 4  # a quarter of the matrix


def test_vectors_that_do_not_fit_are_refused():
    queries = np.ones((2, 4), np.float32)
    with pytest.raises(ConfigError, match="same number of dims"):
        nearest.top_k(queries, np.ones((2, 5), np.float32), 1)
    with pytest.raises(ConfigError, match="at least 1"):
        nearest.top_k(queries, queries, 0)
    with pytest.raises(DataError, match="document vector 1 holds NaN"):
        nearest.top_k(queries, np.array([[1, 1, 1, 1], [1, np.nan, 1, 1]], np.float32), 1)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_vector_without_a_rank_is_named_wherever_it_stands(small_blocks, wrong):
    documents = np.ones((40, 4), np.float32)
    documents[33, 2] = wrong
    with pytest.raises(DataError, match="document vector 33 holds NaN or infinity"):
        nearest.top_k(np.eye(4, dtype=np.float32), documents, 1)
    with pytest.raises(DataError, match="query vector 33 holds NaN or infinity"):
        nearest.top_k(documents, np.ones((2, 4), np.float32), 1)


def test_finite_vectors_whose_product_is_not_are_ranked():
    huge = np.array([[1, 0], [3e38, 3e38], [2, 0]], np.float32)
    with np.errstate(over="ignore"):
        assert nearest.top_k(huge[1:2], huge, 2).indices.tolist() == [[1, 2]]
