"""A variant as mteb sees it: an encoder, and a search that never holds a query × corpus matrix.

mteb hands over texts and scores what comes back. Vectors come from the cache at full width; width and precision are
applied here, because mteb's own wrapper estimates an int8 grid anew for each call, and compares bits by the wrong
measure. Vectors have length 1, so that a dot product is the cosine.

Legend: N texts, E dims of the variant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mteb._create_dataloaders import _retrieval_texts  # conversations and instructions, put into one text
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import PromptType

from limbeck import nearest
from limbeck.compress import FloatArray, hamming_similarity, to_bits
from limbeck.errors import DataError
from limbeck.evaluation.task_types import role_of
from limbeck.evaluation.variants import Variant
from limbeck.evaluation.vectors import Compressor, VectorCache

Ranking = dict[str, dict[str, float]]
"""Query id → document id → score."""


@dataclass(frozen=True)
class Search:
    """What was searched, and what was found."""

    query_ids: list[str]
    document_ids: list[str]
    ranking: Ranking  # mteb takes documents out of it that a task ignores
    queries: FloatArray | None = None  # [Q, D] at full width, if they were to be kept
    documents: FloatArray | None = None  # [N, D]


class MtebModel:
    """One variant on one task; implements mteb's EncoderProtocol and SearchProtocol."""

    def __init__(self, variant: Variant, cache: VectorCache, *, keep_vectors: bool = False) -> None:
        """keep_vectors: also keep what was searched at full width, for a compression curve."""
        self.variant = variant
        self.searches: dict[tuple[str, str], Search] = {}  # by subset and split
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={
                "name": f"limbeck/{variant.digest}",  # mteb files results under it
                "revision": variant.digest,
                "embed_dim": variant.dim,
                "similarity_fn_name": ScoringFunction.COSINE,
                "modalities": ["text"],
            }
        )
        self._cache, self._keep = cache, keep_vectors
        self._compress = Compressor(variant.dim, variant.precision)
        self._document_ids: list[str] = []
        self._full = self._documents = np.empty((0, variant.dim), np.float32)

    def encode(
        self, inputs: Iterable[Mapping[str, Any]], *, task_metadata: TaskMetadata, prompt_type: Any = None, **_: Any
    ) -> FloatArray:
        """Unit vectors float32 [N, E] of batches of texts; int8 has one grid for the whole task."""
        texts = [text for batch in inputs for text in batch["text"]]
        return self._compress(self._vectors(texts, task_metadata, prompt_type))

    def similarity(self, embeddings1: np.ndarray, embeddings2: np.ndarray) -> np.ndarray:
        """Cosines of all pairs: [M, E], [N, E] → [M, N]. mteb asks for blocks."""
        left, right = np.asarray(embeddings1), np.asarray(embeddings2)
        if self.variant.precision == "binary":  # counted, because rounding would put equal distances in some order
            return hamming_similarity(to_bits(left), to_bits(right))
        return left @ right.T

    def similarity_pairwise(self, embeddings1: np.ndarray, embeddings2: np.ndarray) -> np.ndarray:
        """Cosines row by row: [N, E], [N, E] → [N]."""
        return np.einsum("ne,ne->n", np.asarray(embeddings1), np.asarray(embeddings2))

    def index(self, corpus: Any, *, task_metadata: TaskMetadata, **_: Any) -> None:
        """Encode the documents; in int8, they set the grid."""
        self._document_ids = list(corpus["id"][:])
        self._full = self._vectors(document_texts(corpus), task_metadata, PromptType.document)
        self._compress = Compressor(self.variant.dim, self.variant.precision)
        self._documents = self._compress(self._full)

    def search(
        self,
        queries: Any,
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **_: Any,
    ) -> Ranking:
        """The top_k documents of each query, among all or among its candidates."""
        ids = list(queries["id"][:])
        full = self._vectors(query_texts(queries), task_metadata, PromptType.query)
        vectors = self._compress(full, stored=False)
        if top_ranked is None:
            ranking = self._among_all(ids, vectors, top_k)
        else:
            ranking = self._among_candidates(ids, vectors, top_k, top_ranked, task_metadata.name)
        kept = (full, self._full) if self._keep and top_ranked is None else (None, None)
        self.searches[hf_subset, hf_split] = Search(ids, self._document_ids, ranking, *kept)
        return ranking

    def _among_all(self, ids: Sequence[str], queries: FloatArray, top_k: int) -> Ranking:
        if self.variant.precision == "binary":
            hits = nearest.top_k_bits(to_bits(queries), to_bits(self._documents), top_k)
        else:
            hits = nearest.top_k(queries, self._documents, top_k)
        found = zip(ids, hits.indices.tolist(), hits.scores.tolist(), strict=True)
        return {
            query: {self._document_ids[i]: score for i, score in zip(rows, scores, strict=True)}
            for query, rows, scores in found
        }

    def _among_candidates(
        self, ids: Sequence[str], queries: FloatArray, top_k: int, candidates: Mapping[str, Sequence[str]], task: str
    ) -> Ranking:
        place = {identity: i for i, identity in enumerate(self._document_ids)}
        ranking: Ranking = {}
        for query, vector in zip(ids, queries, strict=True):
            asked = list(candidates.get(query, ()))
            if unknown := [c for c in asked if c not in place]:
                raise DataError(
                    f"{task}: {len(unknown)} candidates of query {query!r} are not in the corpus, the first is "
                    f"{unknown[0]!r}"
                )
            scores = self.similarity(vector[None], self._documents[[place[c] for c in asked]])[0]
            best = np.argsort(-scores, kind="stable")[:top_k]
            ranking[query] = {asked[i]: float(scores[i]) for i in best}
        return ranking

    def _vectors(self, texts: Sequence[str], task: TaskMetadata, prompt_type: Any) -> FloatArray:
        prompt = None if prompt_type is None else PromptType(prompt_type).value
        return self._cache.vectors(
            self.variant.subject,
            texts,
            role=role_of(task.type, prompt),
            adapter=self.variant.adapter_of(task.type),
        )


def document_texts(corpus: Any) -> list[str]:
    """Documents as mteb gives them to a model: the title, if there is one, a space, and the text.

    mteb's own function goes row by row, which takes as long as the search.
    """
    texts = corpus["text"][:]
    titles = corpus["title"][:] if "title" in corpus.column_names else [""] * len(texts)
    return [f"{title} {text}".strip() if title else text.strip() for title, text in zip(titles, texts, strict=True)]


def query_texts(queries: Any) -> list[str]:
    """Queries as mteb gives them to a model, each with its instruction."""
    return list(_retrieval_texts(queries, PromptType.query)[:])
