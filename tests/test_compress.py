from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sentence_transformers.util import quantize_embeddings

from limbeck import compress
from limbeck.errors import ConfigError, DataError


def _vectors(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def test_truncation_keeps_the_direction_of_the_first_dims_and_gives_length_one():
    cut = compress.truncate(np.array([[3.0, 4.0, 12.0], [0.0, -2.0, 1.0]], np.float32), 2)
    np.testing.assert_allclose(cut, [[0.6, 0.8], [0.0, -1.0]], atol=1e-7)
    assert cut.dtype == np.float32


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_truncation_neither_underflows_nor_overflows(scale):
    cut = compress.truncate(_vectors(5, 16) * np.float32(scale), 8)
    np.testing.assert_allclose(np.linalg.norm(cut, axis=1), 1, rtol=1e-6)


def test_truncation_leaves_its_input_alone_and_takes_float16():
    vectors = _vectors(3, 8).astype(np.float16)
    before = vectors.copy()
    assert compress.truncate(vectors, 4).dtype == np.float32
    np.testing.assert_array_equal(vectors, before)


@pytest.mark.parametrize("dim", [0, -1, 9])
def test_truncation_to_more_dims_than_there_are_is_refused(dim):
    with pytest.raises(ConfigError, match="8 dims"):
        compress.truncate(_vectors(2, 8), dim)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("function", [compress.to_bits, compress.to_int8, lambda v: compress.truncate(v, 8)])
def test_a_vector_with_nan_or_infinity_is_named(function, poison):
    vectors = _vectors(4, 8)
    vectors[2, 5] = poison
    with pytest.raises(DataError, match=r"vector 2 holds NaN or infinity \(1 of 4"):
        function(vectors)


@pytest.mark.parametrize("function", [compress.to_bits, compress.to_int8, lambda v: compress.truncate(v, 8)])
def test_a_vector_of_zeros_has_no_direction_and_is_named(function):
    vectors = _vectors(3, 8)
    vectors[1] = 0
    with pytest.raises(DataError, match="vector 1 is all zeros"):
        function(vectors)


def test_bits_are_packed_most_significant_first_and_zero_is_no_bit():
    bits = compress.to_bits(np.array([[1, -1, 0, 2, -3, -1, -1, 5.0]], np.float32))
    assert bits.dtype == np.uint8
    assert bits.tolist() == [[0b10010001]]


def test_bits_as_plus_minus_one_are_the_signs():
    vectors = _vectors(7, 24)
    np.testing.assert_array_equal(compress.from_bits(compress.to_bits(vectors)), np.where(vectors > 0, 1, -1))


def test_bits_of_dims_that_eight_does_not_divide_are_refused():
    with pytest.raises(ConfigError, match="multiple of 8 dims, got 12: truncate to 8"):
        compress.to_bits(_vectors(1, 12))


@given(st.integers(1, 20), st.integers(1, 6), st.integers(1, 6), st.integers(0, 1000))
def test_hamming_similarity_is_the_cosine_of_the_plus_minus_one_vectors(bytes_, q, n, seed):
    rng = np.random.default_rng(seed)
    queries, documents = (rng.integers(0, 256, (rows, bytes_), dtype=np.uint8) for rows in (q, n))
    a, b = compress.from_bits(queries), compress.from_bits(documents)
    expected = a @ b.T / (bytes_ * 8)
    np.testing.assert_allclose(compress.hamming_similarity(queries, documents), expected, atol=1e-6)


@pytest.mark.parametrize("bytes_", [8, 8192, 8200])
def test_every_bit_of_the_widest_vectors_counts(bytes_):
    zeros, ones = np.zeros((2, bytes_), np.uint8), np.full((3, bytes_), 255, np.uint8)
    assert (compress.hamming_distance(zeros, ones) == bytes_ * 8).all()


def test_distances_of_rows_that_do_not_lie_together_are_those_of_their_copy():
    bits = np.random.default_rng(6).integers(0, 256, (40, 32), dtype=np.uint8)
    for apart in (bits[:, ::2], bits[:, 8:24], bits[::3]):
        together = np.ascontiguousarray(apart)
        np.testing.assert_array_equal(
            compress.hamming_distance(apart, apart), compress.hamming_distance(together, together)
        )


def test_hamming_similarity_does_not_depend_on_the_block_size(monkeypatch):
    bits = compress.to_bits(_vectors(37, 64))
    whole = compress.hamming_similarity(bits, bits)
    monkeypatch.setattr(compress, "_MATRIX_CELLS", 50)
    np.testing.assert_array_equal(compress.hamming_similarity(bits, bits), whole)


def test_the_lookup_table_counts_as_many_bits_as_numpy_two_does():
    words = np.random.default_rng(0).integers(0, 2**64, (5, 9), dtype=np.uint64)
    expected = [[bin(int(w)).count("1") for w in row] for row in words]
    np.testing.assert_array_equal(compress._popcount_by_table(words), expected)
    np.testing.assert_array_equal(compress.popcount(words), expected)


def test_bits_of_different_dims_are_not_compared():
    with pytest.raises(ConfigError, match="64 bits, documents 32"):
        compress.hamming_distance(compress.to_bits(_vectors(1, 64)), compress.to_bits(_vectors(1, 32)))


def test_int8_is_off_by_at_most_half_a_step_and_uses_the_whole_range():
    vectors = _vectors(20, 48)
    codes, scales = compress.to_int8(vectors)
    assert codes.dtype == np.int8 and scales.shape == (20,)
    assert (np.abs(codes).max(axis=1) == 127).all()
    error = np.abs(compress.from_int8(codes, scales) - vectors)
    assert (error <= scales[:, None] * 0.5001).all()


def test_a_grid_spans_each_dimension_and_is_off_by_at_most_half_a_step():
    vectors = _vectors(300, 16) * np.linspace(0.1, 4, 16, dtype=np.float32) + np.float32(3)
    grid = compress.Int8Grid.fit(vectors)
    codes = grid.encode(vectors)
    assert codes.dtype == np.int8
    np.testing.assert_array_equal([codes.min(axis=0), codes.max(axis=0)], [[-128] * 16, [127] * 16])
    np.testing.assert_allclose(grid.step, np.ptp(vectors, axis=0) / 255, rtol=1e-6)
    assert (np.abs(grid.decode(codes) - vectors) <= grid.step * 0.501).all()


def test_a_grid_gives_the_codes_of_sentence_transformers_but_for_its_truncation():
    vectors = _vectors(300, 16)
    ours = compress.Int8Grid.fit(vectors).encode(vectors).astype(int)
    theirs = np.asarray(quantize_embeddings(vectors, "int8")).astype(int)  # cuts fractions off, where ours rounds
    assert set(np.unique(ours - theirs)) <= {0, 1}


def test_a_query_against_codes_ranks_as_against_the_vectors_they_stand_for():
    documents, queries = _vectors(200, 24), _vectors(10, 24, seed=1)
    grid = compress.Int8Grid.fit(documents)
    codes = grid.encode(documents)
    asymmetric = (queries * grid.step) @ codes.T.astype(np.float32) + (queries @ grid.offset)[:, None]
    np.testing.assert_allclose(asymmetric, queries @ grid.decode(codes).T, atol=1e-4)


def test_a_constant_dimension_is_kept_exactly_and_gives_no_nan():
    vectors = _vectors(50, 8)
    vectors[:, 3], vectors[:, 5] = 0.25, 0
    with np.errstate(all="raise"):
        grid = compress.Int8Grid.fit(vectors)
        decoded = grid.decode(grid.encode(vectors))
    np.testing.assert_array_equal(decoded[:, [3, 5]], [[0.25, 0]] * 50)
    assert np.isfinite(decoded).all()


def test_vectors_beyond_the_grid_are_moved_to_its_edge():
    grid = compress.Int8Grid.fit(np.array([[-1.0, 2.0], [1.0, 2.0]]))
    np.testing.assert_array_equal(grid.encode(np.array([[-9.0, 9.0], [9.0, -9.0]])), [[-128, 0], [127, 0]])


@pytest.mark.parametrize("scale", [1e-30, 8e37])
def test_a_grid_of_tiny_or_huge_values_is_finite(scale):
    vectors = _vectors(50, 8) * np.float32(scale)
    grid = compress.Int8Grid.fit(vectors)
    np.testing.assert_allclose(grid.decode(grid.encode(vectors)), vectors, atol=float(grid.step.max()))


def test_a_grid_is_refused_vectors_that_do_not_fit():
    with pytest.raises(DataError, match="there are none"):
        compress.Int8Grid.fit(_vectors(0, 8))
    with pytest.raises(ConfigError, match="the grid is of 8 dims, the vectors have 16"):
        compress.Int8Grid.fit(_vectors(3, 8)).encode(_vectors(3, 16))
    poisoned = _vectors(3, 8)
    poisoned[1, 2] = np.nan
    with pytest.raises(DataError, match="vector 1 holds NaN"):
        compress.Int8Grid.fit(poisoned)
    with pytest.raises(DataError, match="vector 1 holds NaN"):
        compress.Int8Grid.fit(_vectors(3, 8)).encode(poisoned)


def test_compress_gives_the_bytes_that_sentence_transformers_gives():
    vectors = _vectors(6, 64)
    for precision in ("binary", "ubinary"):
        ours, theirs = compress.compress(vectors, precision), quantize_embeddings(vectors, precision)
        assert ours.dtype == theirs.dtype  # pyright: ignore[reportAttributeAccessIssue]
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(compress.compress(vectors, "float32"), vectors)
    codes, scales = compress.compress(vectors, "int8")
    np.testing.assert_array_equal(codes, compress.to_int8(vectors)[0])


@pytest.mark.parametrize("precision", compress.PRECISIONS)
def test_vector_bytes_counts_what_compress_returns(precision):
    result = compress.compress(_vectors(3, 32), precision)
    parts = result if isinstance(result, tuple) else (result,)
    assert sum(p.nbytes for p in parts) == 3 * compress.vector_bytes(32, precision)


def test_an_unknown_precision_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ConfigError, match="float32, int8, binary, ubinary"):
        compress.compress(_vectors(1, 8), "int4")  # pyright: ignore


def test_no_vectors_are_compressed_to_no_vectors():
    empty = np.zeros((0, 16), np.float32)
    assert compress.truncate(empty, 8).shape == (0, 8)
    assert compress.to_bits(empty).shape == (0, 2)
    assert compress.to_int8(empty)[0].shape == (0, 16)
    assert compress.hamming_similarity(compress.to_bits(empty), compress.to_bits(_vectors(2, 16))).shape == (0, 2)


# ---------------------------------------------------------------------------------- there and back again


@given(hnp.arrays(np.float32, (3, 16), elements=st.floats(-4, 4, width=32).filter(lambda x: abs(x) > 1e-3)))
def test_decompressing_gives_back_what_a_precision_keeps(vectors: np.ndarray) -> None:
    assert np.array_equal(compress.decompress(compress.compress(vectors, "float32"), "float32"), vectors)
    for precision in ("binary", "ubinary"):
        signs = compress.decompress(compress.compress(vectors, precision), precision)
        assert np.array_equal(signs, np.where(vectors > 0, 1, -1))
        assert np.array_equal(compress.compress(signs, precision), compress.compress(vectors, precision))
    codes, scales = compress.compress(vectors, "int8")
    back = compress.decompress((codes, scales), "int8")
    assert (np.abs(back - vectors) <= scales[:, None] * 0.5001).all()


@pytest.mark.parametrize(
    ("compressed", "precision", "message"),
    [
        (np.zeros((2, 8), np.int8), "int8", "int8 vectors are \\(codes, scales\\)"),
        ((np.zeros((2, 8), np.int8), np.ones(2)), "binary", "only int8 vectors are"),
        (np.zeros((2, 8), np.uint8), "binary", "binary vectors are signed bytes"),
        (np.zeros((2, 8), np.int8), "ubinary", "expected packed bits"),
        (np.zeros((2, 8), np.int8), "float16", "unknown precision 'float16'"),
    ],
)
def test_what_is_not_of_the_precision_cannot_be_decompressed(compressed: Any, precision: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compress.decompress(compressed, precision)


def test_the_error_of_a_precision_is_measured() -> None:
    vectors = np.random.default_rng(0).standard_normal((400, 256))
    none, int8, bits = (compress.quantization_error(vectors, p) for p in ("float32", "int8", "ubinary"))
    assert none.least_cosine == pytest.approx(1, abs=1e-6) and none.pair_error == pytest.approx(0, abs=1e-6)
    assert 0.999 < int8.least_cosine <= int8.mean_cosine < 1
    # signs of normal numbers: cosine √(2/π), and a cosine c between two becomes 2/π · asin c
    assert bits.mean_cosine == pytest.approx(np.sqrt(2 / np.pi), abs=0.01)
    assert compress.quantization_error(vectors, "binary") == bits
    assert bits.pair_error > 10 * int8.pair_error
    with pytest.raises(DataError, match="there are none"):
        compress.quantization_error(np.empty((0, 8), np.float32), "int8")
