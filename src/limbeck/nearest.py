"""Exact nearest neighbours in bounded memory. NumPy only.

Legend: `Q` queries, `N` documents, `D` dims, `k` hits a query. Scores are computed in blocks of queries × documents;
the full matrix never exists. Equal scores rank by document index, lower first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limbeck.compress import hamming_distance
from limbeck.errors import ConfigError, DataError

QUERY_BLOCK = 256
DOCUMENT_BLOCK = 8192  # with 256 queries: 8 MiB of float32 scores, a few times that while they are sifted


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
    for side, vectors in (("query", queries), ("document", documents)):
        _check_finite(side, vectors)

    def score(q: slice, d: slice) -> NDArray[np.float32]:
        return queries[q].astype(np.float32) @ documents[d].astype(np.float32).T

    return search_blocks(len(queries), len(documents), k, score)


def top_k_bits(query_bits: np.ndarray, document_bits: np.ndarray, k: int) -> Hits:
    """The k documents at the smallest Hamming distance; a score is 1 − 2 · distance / D.

    query_bits: uint8 [Q, D / 8], document_bits: uint8 [N, D / 8]. Returns and raises as `top_k`.
    """
    _check(query_bits, document_bits, k)
    scale = np.float32(-2 / max(1, query_bits.shape[1] * 8))

    def score(q: slice, d: slice) -> NDArray[np.float32]:
        return hamming_distance(query_bits[q], document_bits[d]) * scale + np.float32(1)

    return search_blocks(len(query_bits), len(document_bits), k, score)


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
    score: Callable[[slice, slice], NDArray[np.float32]],
    *,
    query_block: int | None = None,
) -> Hits:
    """The k documents with the largest score, wherever scores come from.

    `score` is called with a range of queries and one of documents, and gives their scores [queries, documents]. Larger
    query blocks look at each document less often, and hold more scores at a time.
    """
    k = min(k, d_count)
    found = Hits(np.empty((q_count, k), np.int64), np.empty((q_count, k), np.float32))
    for q in _blocks(q_count, query_block or QUERY_BLOCK):
        rows = q.stop - q.start
        best = Hits(np.empty((rows, 0), np.int64), np.empty((rows, 0), np.float32))
        for d in _blocks(d_count, DOCUMENT_BLOCK):
            best = _merge(best, score(q, d), d.start, k)
        found.indices[q], found.scores[q] = best.indices, best.scores
    return found


def _blocks(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _merge(best: Hits, scores: NDArray[np.float32], offset: int, k: int) -> Hits:
    """Best k of `best` [B, ≤ k] and a block of scores [B, n] whose first column is document `offset`."""
    rows, n = scores.shape
    # A document below this floor cannot be among the best k. Ties with it stay in, so that the index decides.
    floor = best.scores[:, -1] if best.scores.shape[1] == k else np.full(rows, -np.inf, np.float32)
    if n > k and np.count_nonzero(scores >= floor[:, None]) > 4 * k * rows:  # at first, or where the best come last
        floor = np.maximum(floor, np.partition(scores, n - k, axis=1)[:, n - k])
    row, column = np.divmod(np.flatnonzero(scores >= floor[:, None]), n)

    kept = best.indices.shape[1]
    all_rows = np.concatenate([np.repeat(np.arange(rows), kept), row])
    all_indices = np.concatenate([best.indices.ravel(), column + offset])
    all_scores = np.concatenate([best.scores.ravel(), scores[row, column]])
    order = np.lexsort((all_indices, -all_scores, all_rows))
    starts = np.searchsorted(all_rows[order], np.arange(rows))
    width = min(k, kept + n)
    chosen = order[starts[:, None] + np.arange(width)]
    return Hits(all_indices[chosen], all_scores[chosen])
