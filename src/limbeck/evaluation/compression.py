"""Retrieval score with smaller vectors: fewer dims, int8, one bit, and one bit put in order by finer vectors.

Vectors are encoded once, at full width, and everything else is made from them:

    float32          the first `dim` values, scaled to length 1
    int8             documents on one grid for the whole corpus, which spans each dimension from its least to its
                     largest value (`Int8Grid`); queries stay float, since nothing is saved by rounding one vector, and
                     none has to be moved to the edge of a grid that documents set
    binary           the sign of each dimension on both sides, compared by Hamming distance
    binary, rescored the best k · oversampling of that, put in order by the int8 or float32 documents and float queries

Legend: `Q` queries, `N` documents, `D` dims. Searches are blockwise; the matrix of Q × N never exists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from limbeck import nearest
from limbeck.compress import FloatArray, Int8Grid, to_bits, truncate
from limbeck.errors import ConfigError
from limbeck.evaluation.results import CurvePoint, VectorPrecision
from limbeck.evaluation.retrieval import Grades, Relevant, checked_dim, checked_relevant, score_hits

OVERSAMPLING = 4  # documents that rescoring reads, for each that is found


class Storage(NamedTuple):
    """What is kept of a document: the vectors that are searched, and the finer ones that put the best in order."""

    precision: VectorPrecision
    rescored_by: Literal["int8", "float32"] | None = None

    def bytes(self, dim: int) -> int:
        """Bytes of one document. The int8 grid, 8 bytes a dimension, is the corpus's and not counted."""
        of = {"float32": 4 * dim, "int8": dim, "binary": dim // 8}
        return of[self.precision] + (of[self.rescored_by] if self.rescored_by else 0)


FLOAT = Storage("float32")
STORAGES = (
    FLOAT,
    Storage("int8"),
    Storage("binary"),
    Storage("binary", "int8"),
    Storage("binary", "float32"),
)

Score = Callable[[nearest.Hits, Grades, int], float]
"""(hits, grades, k) → one number."""


def mean_ndcg(hits: nearest.Hits, grades: Grades, k: int) -> float:
    """Mean nDCG@k over queries, by pytrec_eval."""
    return float(score_hits(hits, grades, k).ndcg.mean())


def compression_curve_of(
    query_vectors: np.ndarray,
    document_vectors: np.ndarray,
    relevant: Relevant,
    dims: Sequence[int],
    *,
    score: Score = mean_ndcg,
    k: int = 10,
    oversampling: int = OVERSAMPLING,
    storages: Sequence[Storage] = STORAGES,
) -> list[CurvePoint]:
    """Score a retrieval task at each of `dims` and the full width, in every way of storing documents.

    Args:
        query_vectors: [Q, D], any norm.
        document_vectors: [N, D], any norm.
        relevant: one entry a query, see `Relevant`.
        dims: widths in 1 … D, in any order.
        score: what is measured, nDCG@k unless told otherwise.
        k: documents that are found for a query.
        oversampling: a rescored search puts the best k · oversampling in order.
        storages: the ways of storing; bits are left out at a dim that 8 does not divide.

    Returns points by storage, in the order given, and then by dim. Their relative_to_full is against the float32
    vectors of D dims, None where these score 0.

    Raises as `evaluate_retrieval`, and ConfigError for a dim out of range or an oversampling below 1.
    """
    full = checked_dim(query_vectors, document_vectors)
    grades = checked_relevant(relevant, len(query_vectors), len(document_vectors))
    widths = sorted({*dims, full})
    if widths[0] < 1 or widths[-1] > full:
        raise ConfigError(f"dims must lie in 1 … {full}, the width of the vectors, got {list(dims)}")
    if oversampling < 1:
        raise ConfigError(f"oversampling must be at least 1, got {oversampling}")

    scores: dict[tuple[Storage, int], float] = {}
    for dim in widths:
        queries, documents = truncate(query_vectors, dim), truncate(document_vectors, dim)
        wanted = [s for s in storages if dim % 8 == 0 or s.precision != "binary"]
        if dim == full and FLOAT not in wanted:
            wanted.append(FLOAT)  # what the others are relative to
        for storage, hits in _searches(queries, documents, wanted, k, oversampling).items():
            scores[storage, dim] = score(hits, grades, k)
    reference = scores[FLOAT, full]
    return [
        CurvePoint(
            dim=dim,
            precision=storage.precision,
            rescored_by=storage.rescored_by,
            score=scores[storage, dim],
            bytes=storage.bytes(dim),
            relative_to_full=scores[storage, dim] / reference if reference else None,
        )
        for storage in storages
        for dim in widths
        if (storage, dim) in scores
    ]


def _searches(
    queries: FloatArray, documents: FloatArray, storages: Sequence[Storage], k: int, oversampling: int
) -> dict[Storage, nearest.Hits]:
    """The best k documents of each query, in each way of storing."""
    grid = Int8Grid.fit(documents)
    sides: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "float32": (queries, documents),
        "int8": (queries * grid.step, grid.encode(documents)),
    }
    found = {s: nearest.top_k(*sides[s.precision], k) for s in storages if s.precision != "binary"}
    bits = [s for s in storages if s.precision == "binary"]
    if bits:
        best = nearest.top_k_bits(to_bits(queries), to_bits(documents), k * oversampling)
        for s in bits:
            cut = nearest.Hits(best.indices[:, :k], best.scores[:, :k])
            found[s] = nearest.rescore(best, *sides[s.rescored_by], k) if s.rescored_by else cut
    return found
