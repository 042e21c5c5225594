"""Smaller vectors: fewer dims, int8, or one bit per dimension. NumPy only.

Legend: `N` vectors, `D` dims, `Q` queries. A bit is 1 where the value is above zero; bits are packed eight to a byte,
the first dimension in the most significant bit, as `numpy.packbits`, sentence-transformers and the Jina API lay them
out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import ConfigError, DataError

Precision = Literal["float32", "int8", "binary", "ubinary"]
PRECISIONS: tuple[Precision, ...] = ("float32", "int8", "binary", "ubinary")

FloatArray = NDArray[np.float32]
BitArray = NDArray[np.uint8]

_MATRIX_CELLS = 1 << 21  # query × document cells worked on at once
_CACHED_ROWS = 1 << 14  # documents whose bits, and what is made of them, stay in the cache of a core


def truncate(vectors: np.ndarray, dim: int) -> FloatArray:
    """The first `dim` values of each vector, scaled to length 1. vectors: [N, D], any norm → float32 [N, dim].

    Raises ConfigError when `dim` is not in 1 … D, DataError when a vector has NaN, infinity, or nothing but zeros in
    its first `dim` values (it has no direction).
    """
    vectors = _matrix(vectors)
    if not 1 <= dim <= vectors.shape[1]:
        raise ConfigError(
            f"cannot truncate vectors of {vectors.shape[1]} dims to {dim}: ask for 1 … {vectors.shape[1]}"
        )
    kept = vectors[:, :dim].astype(np.float32)
    kept /= _peaks(kept)[:, None]  # first to peak 1, so that squares of tiny or huge values neither vanish nor overflow
    kept /= np.sqrt(np.einsum("nd,nd->n", kept, kept))[:, None]
    return kept


def to_bits(vectors: np.ndarray) -> BitArray:
    """One bit per dimension, 1 where the value is above zero. vectors: [N, D] → uint8 [N, D / 8].

    Raises ConfigError when D is not a multiple of 8: padding bits would count as agreement in a Hamming distance.
    """
    vectors = _matrix(vectors)
    if vectors.shape[1] % 8:
        raise ConfigError(
            f"1-bit vectors need a multiple of 8 dims, got {vectors.shape[1]}: truncate to {vectors.shape[1] // 8 * 8}"
        )
    _peaks(vectors)
    return np.packbits(vectors > 0, axis=1)


def from_bits(bits: np.ndarray) -> FloatArray:
    """Packed bits as vectors of ±1. bits: uint8 [N, D / 8] → float32 [N, D]."""
    return np.unpackbits(_packed(bits), axis=1).astype(np.float32) * 2 - 1


def hamming_distance(query_bits: np.ndarray, document_bits: np.ndarray, dtype: Any = np.int32) -> NDArray[Any]:
    """Number of differing bits, all pairs at once. uint8 [Q, D / 8], uint8 [N, D / 8] → [Q, N] of `dtype`.

    The type must hold D: narrow ones are faster. Raises ConfigError when the dims differ.
    """
    queries, documents = words_of_bits(query_bits), words_of_bits(document_bits)
    if query_bits.shape[1] != document_bits.shape[1]:
        raise ConfigError(
            f"queries have {query_bits.shape[1] * 8} bits, documents {document_bits.shape[1] * 8}: use the same dims"
        )
    distance = np.zeros((len(queries), len(documents)), dtype)
    for start in range(0, len(documents), _CACHED_ROWS):
        block = slice(start, start + _CACHED_ROWS)
        # one query reads each word once: laying them out anew would take as long as the search
        columns = documents[block].T if len(queries) == 1 else np.ascontiguousarray(documents[block].T)
        for row, query in zip(distance, queries, strict=True):
            found = row[block]
            for word, column in zip(query, columns, strict=True):
                found += popcount(column ^ word)
    return distance


def hamming_similarity(query_bits: np.ndarray, document_bits: np.ndarray) -> FloatArray:
    """1 − 2 · distance / D, which is the cosine of the ±1 vectors. → float32 [Q, N]; −1 opposite, 1 the same.

    Intermediate memory is bounded; only the result grows with Q × N. To search, use `limbeck.nearest.top_k_bits`,
    which never holds it.
    """
    query_bits, document_bits = _packed(query_bits), _packed(document_bits)
    similarity = np.empty((len(query_bits), len(document_bits)), np.float32)
    rows = max(1, _MATRIX_CELLS // max(1, len(document_bits)))
    for start in range(0, len(query_bits), rows):
        block = slice(start, start + rows)
        similarity[block] = hamming_distance(query_bits[block], document_bits)
    similarity *= -2 / (query_bits.shape[1] * 8)
    similarity += 1
    return similarity


def to_int8(vectors: np.ndarray) -> tuple[NDArray[np.int8], FloatArray]:
    """Whole numbers −127 … 127 and one scale per vector. [N, D] → int8 [N, D], float32 [N]; value ≈ code · scale.

    The scale is the vector's largest magnitude / 127, so no calibration set is needed and nothing is clipped.
    """
    vectors = _matrix(vectors).astype(np.float32)
    scales = (_peaks(vectors) / 127).astype(np.float32)
    return np.rint(vectors / scales[:, None]).astype(np.int8), scales


def from_int8(codes: np.ndarray, scales: np.ndarray) -> FloatArray:
    """The vectors that int8 codes stand for. int8 [N, D], float32 [N] → float32 [N, D]."""
    if codes.shape[:1] != scales.shape:
        raise ConfigError(f"{len(codes)} int8 vectors need as many scales, got shape {scales.shape}")
    return codes.astype(np.float32) * scales[:, None].astype(np.float32)


@dataclass(frozen=True, slots=True)
class Int8Grid:
    """One int8 grid for a whole corpus: value ≈ offset + code · step, each [D]; step is 0 where nothing varies.

    A query needs no codes: q · document = q · offset + (q · step) · codes, and the first term is the same for every
    document. So `(q * grid.step) @ codes` ranks documents as their dequantised vectors do.
    """

    offset: FloatArray
    step: FloatArray

    @classmethod
    def fit(cls, vectors: np.ndarray) -> Int8Grid:
        """The grid that spans each dimension from its least to its largest value. vectors: [N, D], N ≥ 1.

        Raises DataError for no vectors, or one that holds NaN, infinity or nothing but zeros.
        """
        vectors = _matrix(vectors)
        if not len(vectors):
            raise DataError("an int8 grid is fitted to vectors, and there are none: encode some documents first")
        _peaks(vectors)
        # in double precision: the range of float32 values can exceed what float32 holds
        low, high = vectors.min(axis=0).astype(np.float64), vectors.max(axis=0).astype(np.float64)
        step = (high - low) / 255
        return cls((low + 128 * step).astype(np.float32), step.astype(np.float32))

    def encode(self, vectors: np.ndarray) -> NDArray[np.int8]:
        """Nearest codes, −128 … 127; what lies outside the grid is moved to its edge. [N, D] → int8 [N, D]."""
        vectors = _matrix(vectors)
        if vectors.shape[1] != len(self.step):
            raise ConfigError(f"the grid is of {len(self.step)} dims, the vectors have {vectors.shape[1]}")
        _peaks(vectors)
        steps = np.where(self.step > 0, self.step, np.float32(np.inf))  # where nothing varies every code is 0
        codes = (vectors.astype(np.float32) - self.offset) / steps
        return np.clip(np.rint(codes), -128, 127).astype(np.int8)

    def decode(self, codes: np.ndarray) -> FloatArray:
        """The vectors that codes stand for. int8 [N, D] → float32 [N, D]."""
        return codes.astype(np.float32) * self.step + self.offset


@overload
def compress(vectors: np.ndarray, precision: Literal["int8"]) -> tuple[NDArray[np.int8], FloatArray]: ...
@overload
def compress(vectors: np.ndarray, precision: Literal["float32", "binary", "ubinary"]) -> np.ndarray: ...
@overload
def compress(vectors: np.ndarray, precision: Precision) -> np.ndarray | tuple[np.ndarray, np.ndarray]: ...
def compress(vectors: np.ndarray, precision: Precision) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Vectors in a smaller type. vectors: [N, D].

    - `float32`: [N, D] as they are.
    - `int8`: (codes int8 [N, D], scales float32 [N]), see `to_int8`.
    - `ubinary`: packed bits, uint8 [N, D / 8].
    - `binary`: the same bytes less 128, int8 [N, D / 8], for stores that only have signed bytes.

    Raises ConfigError for another precision or for bits of a D that 8 does not divide, DataError for NaN, infinite or
    all-zero vectors.
    """
    if precision == "float32":
        checked = _matrix(vectors)
        _peaks(checked)
        return checked.astype(np.float32, copy=False)
    if precision == "int8":
        return to_int8(vectors)
    if precision == "ubinary":
        return to_bits(vectors)
    if precision == "binary":
        return (to_bits(vectors).astype(np.int16) - 128).astype(np.int8)
    raise ConfigError(f"unknown precision {precision!r}: choose one of {', '.join(PRECISIONS)}")


def decompress(compressed: np.ndarray | tuple[np.ndarray, np.ndarray], precision: Precision) -> FloatArray:
    """The vectors that compressed ones stand for. As `compress` returns them → float32 [N, D].

    It is the exact inverse for float32, and for bits of the signs that they kept (±1, whose cosines are those of
    `hamming_similarity`); int8 gives values to within half a scale. `quantization_error` says what was lost.

    Raises ConfigError for another precision, or for arrays that are not of it.
    """
    if precision == "int8":
        if not isinstance(compressed, tuple):
            raise ConfigError("int8 vectors are (codes, scales): without its scale a code stands for nothing")
        return from_int8(*compressed)
    if isinstance(compressed, tuple):
        raise ConfigError(f"only int8 vectors are (codes, scales), got them as {precision!r}")
    if precision == "float32":
        return _matrix(compressed).astype(np.float32, copy=False)
    if precision == "ubinary":
        return from_bits(compressed)
    if precision == "binary":
        signed = np.asarray(compressed)
        if signed.dtype != np.int8:
            raise ConfigError(f"binary vectors are signed bytes, int8 [N, D / 8], got {signed.dtype} {signed.shape}")
        return from_bits((signed.astype(np.int16) + 128).astype(np.uint8))
    raise ConfigError(f"unknown precision {precision!r}: choose one of {', '.join(PRECISIONS)}")


@dataclass(frozen=True, slots=True)
class QuantizationError:
    """What some vectors lost. Cosines are between a vector and what its compressed form stands for; 1 = nothing."""

    mean_cosine: float
    least_cosine: float
    pair_error: float  # mean of |cosine of two vectors − the same of their compressed forms|, over pairs of neighbours


def quantization_error(vectors: np.ndarray, precision: Precision) -> QuantizationError:
    """Measure what a precision loses on these vectors, [N, D], N ≥ 1. Raises as `compress`; DataError for no vectors.

    Pairs are each vector with the next: bring them in random order to have random pairs.
    """
    whole = truncate(vectors, np.shape(vectors)[-1])
    if not len(whole):
        raise DataError("an error is measured on vectors, and there are none: encode some texts first")
    kept = truncate(decompress(compress(whole, precision), precision), whole.shape[1])
    cosines = np.clip(np.einsum("nd,nd->n", whole, kept), -1, 1)
    before, after = (np.einsum("nd,nd->n", v, np.roll(v, 1, axis=0)) for v in (whole, kept))
    return QuantizationError(float(cosines.mean()), float(cosines.min()), float(np.abs(before - after).mean()))


def vector_bytes(dim: int, precision: Precision) -> int:
    """Bytes that one stored vector takes."""
    return {"float32": 4 * dim, "int8": dim + 4, "binary": dim // 8, "ubinary": dim // 8}[precision]


def _matrix(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
        raise ConfigError(f"expected floating-point vectors [N, D], got {vectors.dtype} of shape {vectors.shape}")
    return vectors


def _packed(bits: np.ndarray) -> BitArray:
    bits = np.asarray(bits)
    if bits.ndim != 2 or bits.dtype != np.uint8:
        raise ConfigError(f"expected packed bits, uint8 [N, D / 8], got {bits.dtype} of shape {bits.shape}")
    return bits


def _peaks(vectors: np.ndarray) -> FloatArray:
    """Largest magnitude of each vector, [N]. Raises DataError naming the first vector that has no direction."""
    if not vectors.size:
        return np.zeros(len(vectors), np.float32)
    peaks = np.maximum(vectors.max(axis=1), -vectors.min(axis=1)).astype(np.float32)
    bad = ~(np.isfinite(peaks) & (peaks > 0))
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        kind = "is all zeros" if peaks[first] == 0 else "holds NaN or infinity"
        raise DataError(
            f"vector {first} {kind} ({int(bad.sum())} of {len(vectors)} such): look at its text and at the model"
        )
    return peaks


def words_of_bits(bits: np.ndarray) -> NDArray[np.uint64]:
    """Packed bits as 64-bit words, padded by zeros, which never differ. uint8 [N, B] → uint64 [N, ceil(B / 8)]."""
    bits = _packed(bits)
    if bits.shape[1] % 8 == 0 and bits.flags.c_contiguous:
        return bits.view(np.uint64)
    padded = np.zeros((len(bits), -(-bits.shape[1] // 8) * 8), np.uint8)
    padded[:, : bits.shape[1]] = bits
    return padded.view(np.uint64)


_BYTE_COUNTS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)


def _popcount_by_table(words: NDArray[np.uint64]) -> NDArray[np.uint8]:
    parts = np.ascontiguousarray(words).view(np.uint8).reshape(*words.shape, 8)
    return _BYTE_COUNTS[parts].sum(axis=-1, dtype=np.uint8)


# NumPy 1.26 has no bitwise_count.
popcount: Callable[[NDArray[np.uint64]], NDArray[np.uint8]] = getattr(np, "bitwise_count", _popcount_by_table)
