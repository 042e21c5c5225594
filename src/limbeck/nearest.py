"""Exact nearest neighbours in bounded memory. NumPy only.

Legend: `Q` queries, `N` documents, `D` dims, `k` hits a query. Scores are computed in blocks of queries × documents;
the full matrix never exists. Equal scores rank by document index, lower first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.compress import hamming_distance
from limbeck.errors import ConfigError, DataError

QUERY_BLOCK = 256
DOCUMENT_BLOCK = 8192  # with 256 queries: 8 MiB of float32 scores, a few times that while they are sifted
FEW_QUERIES_BLOCK = 65_536  # of bits: sifting a block of few scores would take longer than making them


@dataclass(frozen=True, slots=True)
class Hits:
    """Best documents of each query, best first. indices: int64 [Q, k]; scores: float32 [Q, k]."""

    indices: NDArray[np.int64]
    scores: NDArray[np.float32]


def top_k(queries: np.ndarray, documents: np.ndarray, k: int) -> Hits:
    """The k documents with the largest dot product. queries: [Q, D], documents: [N, D], any float type.

    Returns min(k, N) hits a query. Products are taken in float32. Raises ConfigError when the dims differ or k < 1,
    DataError when a vector holds NaN or infinity (it would have no rank).
    """
    _check(queries, documents, k)

    def score(q: slice, d: slice) -> NDArray[np.float32]:
        with np.errstate(invalid="ignore"):  # it is told below, by name
            scores = queries[q].astype(np.float32, copy=False) @ documents[d].astype(np.float32, copy=False).T
        if not np.isfinite(scores).all():  # what a vector without a rank gives; looking at the vectors takes far longer
            _check_finite("query", queries)
            _check_finite("document", documents)
        return scores

    return search_blocks(len(queries), len(documents), k, score)


def top_k_bits(query_bits: np.ndarray, document_bits: np.ndarray, k: int) -> Hits:
    """The k documents at the smallest Hamming distance; a score is 1 − 2 · distance / D.

    query_bits: uint8 [Q, D / 8], document_bits: uint8 [N, D / 8]. Returns and raises as `top_k`.
    """
    _check(query_bits, document_bits, k)
    dims = query_bits.shape[1] * 8
    narrow = np.int16 if dims <= np.iinfo(np.int16).max else np.int32

    def score(q: slice, d: slice) -> NDArray[Any]:
        distance = hamming_distance(query_bits[q], document_bits[d], narrow)
        return np.negative(distance, out=distance)

    few = len(query_bits) * FEW_QUERIES_BLOCK <= QUERY_BLOCK * DOCUMENT_BLOCK  # as many scores at a time as with many
    document_block = FEW_QUERIES_BLOCK if few else DOCUMENT_BLOCK
    found = search_blocks(len(query_bits), len(document_bits), k, score, document_block=document_block)
    return Hits(found.indices, found.scores * np.float32(2 / max(1, dims)) + np.float32(1))


def rescore(hits: Hits, queries: np.ndarray, documents: np.ndarray, k: int) -> Hits:
    """Reorder hits by the dot product of finer vectors and keep the best k.

    The second half of "1 bit, then float": `rescore(top_k_bits(q_bits, d_bits, 4 * k), q, d, k)`.
    queries: [Q, D], documents: [N, D], which may be a memory map: only the hits' rows are read.
    """
    _check(queries, documents, k)
    scores = np.empty(hits.indices.shape, np.float32)
    for row, indices in enumerate(hits.indices):
        scores[row] = documents[indices].astype(np.float32) @ queries[row].astype(np.float32)
    order = np.lexsort((hits.indices, -scores), axis=1)[:, :k]
    return Hits(np.take_along_axis(hits.indices, order, axis=1), np.take_along_axis(scores, order, axis=1))


def _check(queries: np.ndarray, documents: np.ndarray, k: int) -> None:
    if queries.ndim != 2 or documents.ndim != 2 or queries.shape[1] != documents.shape[1]:
        raise ConfigError(
            f"queries {queries.shape} and documents {documents.shape} must be matrices with the same number of dims"
        )
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k}")


def _check_finite(side: str, vectors: np.ndarray) -> None:
    for block in _blocks(len(vectors), DOCUMENT_BLOCK):
        bad = ~np.isfinite(vectors[block]).all(axis=1)
        if bad.any():
            first = block.start + int(np.flatnonzero(bad)[0])
            raise DataError(f"{side} vector {first} holds NaN or infinity: look at its text and at the model")


def search_blocks(
    q_count: int,
    d_count: int,
    k: int,
    score: Callable[[slice, slice], NDArray[Any]],
    *,
    query_block: int | None = None,
    document_block: int | None = None,
) -> Hits:
    """The k documents with the largest score, wherever scores come from.

    `score` is called with a range of queries and one of documents, and gives their scores [queries, documents], float32
    or whole numbers below 2^24, which float32 holds. Larger query blocks look at each document less often, larger
    document blocks are sifted less often; both hold more scores at a time.
    """
    k = min(k, d_count)
    found = Hits(np.empty((q_count, k), np.int64), np.empty((q_count, k), np.float32))
    for q in _blocks(q_count, query_block or QUERY_BLOCK):
        rows = q.stop - q.start
        best = Hits(np.empty((rows, 0), np.int64), np.empty((rows, 0), np.float32))
        for d in _blocks(d_count, document_block or DOCUMENT_BLOCK):
            best = _merge(best, score(q, d), d.start, k)
        found.indices[q], found.scores[q] = best.indices, best.scores
    return found


def _blocks(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _merge(best: Hits, scores: NDArray[Any], offset: int, k: int) -> Hits:
    """Best k of `best` [B, ≤ k] and a block of scores [B, n] whose first column is document `offset`."""
    rows, n = scores.shape
    # A document below this floor cannot be among the best k. Ties with it stay in, so that the index decides.
    if best.scores.shape[1] == k:
        floor = best.scores[:, -1].astype(scores.dtype)
    else:
        whole = np.issubdtype(scores.dtype, np.integer)
        floor = np.full(rows, np.iinfo(scores.dtype).min if whole else -np.inf, scores.dtype)
    if n > k and np.count_nonzero(scores >= floor[:, None]) > 4 * k * rows:  # at first, or where the best come last
        floor = np.maximum(floor, np.partition(scores, n - k, axis=1)[:, n - k])
    row, column = np.divmod(np.flatnonzero(scores >= floor[:, None]), n)

    kept = best.indices.shape[1]
    all_rows = np.concatenate([np.repeat(np.arange(rows), kept), row])
    all_indices = np.concatenate([best.indices.ravel(), column + offset])
    all_scores = np.concatenate([best.scores.ravel(), scores[row, column].astype(np.float32)])
    order = np.lexsort((all_indices, -all_scores, all_rows))
    starts = np.searchsorted(all_rows[order], np.arange(rows))
    width = min(k, kept + n)
    chosen = order[starts[:, None] + np.arange(width)]
    return Hits(all_indices[chosen], all_scores[chosen])
