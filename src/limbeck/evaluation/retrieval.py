"""Retrieval quality of query and document vectors: nDCG, recall and MRR, at full width, truncated, and at one bit.

Legend: `Q` queries, `N` documents, `D` dims. The search is exact and blockwise; the metrics are trec_eval's, through
pytrec_eval.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from limbeck import nearest
from limbeck.compress import FloatArray, to_bits, truncate
from limbeck.errors import ConfigError, DataError

Relevant = Sequence[Collection[int] | Mapping[int, int]]
"""For each query its relevant documents by index: a set (grade 1 each) or a mapping to grades (whole numbers ≥ 0)."""

Grades = Sequence[Mapping[str, int]]
"""The same, checked: for each query the grades by document index, as text, which is how pytrec_eval wants them."""

SearchPrecision = Literal["float32", "binary"]


@dataclass(frozen=True, slots=True)
class RetrievalScores:
    """Metrics of each query, in the order given. ndcg, recall, mrr: float64 [Q], each cut at rank `k`."""

    k: int
    ndcg: NDArray[np.float64]
    recall: NDArray[np.float64]
    mrr: NDArray[np.float64]
    hits: nearest.Hits

    def means(self) -> dict[str, float]:
        """Mean over queries: {"ndcg_at_10": …, "recall_at_10": …, "mrr_at_10": …} for k = 10."""
        arrays = {"ndcg": self.ndcg, "recall": self.recall, "mrr": self.mrr}
        return {f"{name}_at_{self.k}": float(values.mean()) for name, values in arrays.items()}


def evaluate_retrieval(
    query_vectors: np.ndarray,
    document_vectors: np.ndarray,
    relevant: Relevant,
    *,
    k: int = 10,
    precision: SearchPrecision = "float32",
    rescore: int = 0,
) -> RetrievalScores:
    """Search every query by cosine (or by Hamming distance of 1-bit vectors) and score the k best documents.

    query_vectors: [Q, D]; document_vectors: [N, D], any norm; relevant: one entry a query. With `rescore` > 0 the best
    `k · rescore` documents by Hamming distance are reordered by the float vectors.

    Raises DataError: no queries or documents, a NaN, infinite or all-zero vector, a query without a relevant document,
    a document index out of range, a grade that is no whole number ≥ 0. ConfigError: dims differ, or 1-bit vectors of
    dims that 8 does not divide. Of fewer documents than k every query finds all.
    """
    dim = checked_dim(query_vectors, document_vectors)
    grades = checked_relevant(relevant, len(query_vectors), len(document_vectors))
    queries, documents = truncate(query_vectors, dim), truncate(document_vectors, dim)
    return score_hits(_hits(queries, documents, k, precision, rescore), grades, k)


def _hits(queries: FloatArray, documents: FloatArray, k: int, precision: SearchPrecision, rescore: int) -> nearest.Hits:
    if precision == "float32":
        return nearest.top_k(queries, documents, k)
    if precision == "binary":
        hits = nearest.top_k_bits(to_bits(queries), to_bits(documents), k * max(1, rescore))
        return nearest.rescore(hits, queries, documents, k) if rescore else hits
    raise ConfigError(f"unknown search precision {precision!r}: choose float32 or binary")


def score_hits(hits: nearest.Hits, grades: Grades, k: int) -> RetrievalScores:
    """Score what a search found, by pytrec_eval. hits: best first, at least k where there are so many."""
    import pytrec_eval  # in the `eval` extra

    found = hits.indices.shape[1]
    # Ranks stand in for scores: trec_eval would reorder equal scores by document name.
    run = {
        str(q): {str(document): float(found - rank) for rank, document in enumerate(row)}
        for q, row in enumerate(hits.indices.tolist())
    }
    qrels = {str(q): grade for q, grade in enumerate(grades)}
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, {f"ndcg_cut.{k}", f"recall.{k}", "recip_rank"})
    by_query: dict[str, dict[str, float]] = evaluator.evaluate(run)

    def column(measure: str) -> NDArray[np.float64]:
        return np.array([by_query[str(q)][measure] for q in range(len(grades))])

    # The run ends at rank k, so the reciprocal rank is cut there too.
    return RetrievalScores(k, column(f"ndcg_cut_{k}"), column(f"recall_{k}"), column("recip_rank"), hits)


def checked_dim(query_vectors: np.ndarray, document_vectors: np.ndarray) -> int:
    """The common number of dims. Raises as `evaluate_retrieval` for vectors that cannot be scored."""
    for side, vectors in (("query", query_vectors), ("document", document_vectors)):
        if vectors.ndim != 2:
            raise ConfigError(f"{side} vectors must be a matrix, got shape {vectors.shape}")
        if not len(vectors):
            raise DataError(f"there are no {side} vectors to evaluate: the held-out set is empty")
        _check_directions(side, vectors)
    if query_vectors.shape[1] != document_vectors.shape[1]:
        raise ConfigError(
            f"query vectors have {query_vectors.shape[1]} dims, document vectors {document_vectors.shape[1]}: "
            "encode both with the same model and dim"
        )
    return query_vectors.shape[1]


def _check_directions(side: str, vectors: np.ndarray) -> None:
    rows = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if rows.size:
        raise DataError(
            f"{rows.size} of {len(vectors)} {side} vectors hold NaN or infinity, the first is {rows[0]}: "
            "look at its text and at the model"
        )


def checked_relevant(relevant: Relevant, queries: int, documents: int) -> list[dict[str, int]]:
    """Grades as pytrec_eval takes them. Raises as `evaluate_retrieval` for relevance that does not fit."""
    if len(relevant) != queries:
        raise DataError(f"{queries} query vectors need as many entries of relevant documents, got {len(relevant)}")
    checked = []
    for query, entry in enumerate(relevant):
        grades = dict(entry) if isinstance(entry, Mapping) else dict.fromkeys(entry, 1)
        for document, grade in grades.items():
            if not 0 <= document < documents:
                raise DataError(f"query {query} names document {document}, but there are documents 0 … {documents - 1}")
            if int(grade) != grade or grade < 0:
                raise DataError(f"query {query} grades document {document} as {grade!r}: use whole numbers ≥ 0")
        if not any(grades.values()):
            raise DataError(f"query {query} has no relevant document: drop it, or it would count as a zero")
        checked.append({str(int(document)): int(grade) for document, grade in grades.items()})
    return checked
