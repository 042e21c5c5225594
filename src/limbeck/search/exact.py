"""Exact search in NumPy, with the document vectors kept on disk so that the next search need not encode.

Legend: `N` documents, `Q` queries, `D` dims, `k` hits a query.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from limbeck.errors import DataError, ModelError
from limbeck.files import atomic_write, read_json, write_json
from limbeck.folders import user_cache
from limbeck.model.prefixes import PREFIXES
from limbeck.nearest import top_k
from limbeck.search.corpus import Corpus, load_corpus

__all__ = ["Corpus", "Hit", "SearchEncoder", "default_cache_dir", "document_vectors", "load_corpus", "search_corpus"]

logger = logging.getLogger(__name__)

Progress = Callable[[int], None]
Task: TypeAlias = str | Mapping[str, float]
"""Name of an adapter, or a blend, name → weight."""

_FORMAT = 1
_CHUNK = 2048  # documents encoded between two progress reports


class SearchEncoder(Protocol):
    """What search needs of a model. `fingerprint_of` a task changes when its vectors do; `dim` is their full width."""

    @property
    def tasks(self) -> Sequence[str]: ...  # noqa: D102

    @property
    def dim(self) -> int: ...  # noqa: D102

    def fingerprint_of(self, task: Task | None) -> str: ...  # noqa: D102

    def encode(  # noqa: D102
        self, texts: Sequence[str], *, role: Literal["query", "document"], task: Task | None, dim: int | None
    ) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class Hit:
    """One document found. score: cosine, −1 … 1."""

    rank: int  # 1 = best
    id: str
    score: float
    document: str


def search_corpus(
    encoder: SearchEncoder,
    ids: Sequence[str],
    documents: Sequence[str],
    queries: Sequence[str],
    *,
    k: int = 10,
    task: Task | None = None,
    dim: int | None = None,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> list[list[Hit]]:
    """The k best documents of each query, best first; fewer where there are fewer documents.

    Args:
        encoder: gives vectors of length 1.
        ids: one for each document.
        documents: what is searched.
        queries: what is looked for.
        k: hits a query.
        task: adapter to use; None (or "auto") = retrieval, where the encoder has adapters. With a task that has no
            queries, such as text-matching, both sides are encoded as documents: texts like the query are found.
        dim: width that vectors are truncated to; None = the encoder's full width.
        cache_dir: folder where document vectors are kept (float16), by encoder, task, documents and dim; None =
            nowhere.
        progress: called with the number of documents encoded since the last call.

    Raises DataError: no documents, as many ids as there are not documents, an empty query. ModelError: the encoder
    gives vectors of another shape, or with NaN. ConfigError: k < 1, or a task that the encoder does not know.
    """
    if len(ids) != len(documents):
        raise DataError(f"{len(documents)} documents need as many ids, got {len(ids)}")
    for number, query in enumerate(queries):
        if not query.strip():
            raise DataError(f"query {number} is empty: say what to look for")
    width = dim or encoder.dim
    if task in (None, "auto") and encoder.tasks:
        task = "retrieval"
    vectors = document_vectors(encoder, documents, task=task, dim=width, cache_dir=cache_dir, progress=progress)
    if not queries:
        return []
    names = [task] if isinstance(task, str) else task
    role = "query" if names is None or any((name, "query") in PREFIXES for name in names) else "document"
    query_vectors = _checked(encoder.encode(list(queries), role=role, task=task, dim=width), len(queries), width)
    found = top_k(query_vectors, vectors, k)
    results = []
    for row, scores in zip(found.indices, found.scores, strict=True):
        pairs = zip(row, scores, strict=True)
        results.append([Hit(rank, ids[int(i)], float(s), documents[int(i)]) for rank, (i, s) in enumerate(pairs, 1)])
    return results


def document_vectors(
    encoder: SearchEncoder,
    documents: Sequence[str],
    *,
    task: Task | None = None,
    dim: int,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Vectors of the documents, float16 [N, dim], from the cache where they are there; else encoded and kept.

    A cache that cannot be read is made anew, one that cannot be written is done without; both are logged.
    """
    if not documents:
        raise DataError("the corpus holds no documents")
    digest, fingerprint = _documents_digest(documents), encoder.fingerprint_of(task)
    manifest = {
        "format": _FORMAT,
        "encoder": fingerprint,
        "dim": dim,
        "documents": len(documents),
        "documents_sha256": digest,
    }
    key = hashlib.sha256(f"{_FORMAT}\0{fingerprint}\0{dim}\0{digest}".encode()).hexdigest()[:32]
    file = cache_dir / f"{key}.npy" if cache_dir else None
    if file and (kept := _read_kept(file, manifest)) is not None:
        return kept
    vectors = _encode(encoder, documents, task, dim, progress)
    if file:
        _keep(file, vectors, manifest)
    return vectors


def default_cache_dir() -> Path:
    """Folder of the user's caches: $XDG_CACHE_HOME/limbeck/search, or ~/.cache/limbeck/search."""
    return user_cache() / "search"


def _encode(
    encoder: SearchEncoder, documents: Sequence[str], task: Task | None, dim: int, progress: Progress | None
) -> np.ndarray:
    vectors = np.empty((len(documents), dim), np.float16)
    for start in range(0, len(documents), _CHUNK):
        chunk = list(documents[start : start + _CHUNK])
        found = encoder.encode(chunk, role="document", task=task, dim=dim)
        vectors[start : start + len(chunk)] = _checked(found, len(chunk), dim)
        if progress:
            progress(len(chunk))
    return vectors


def _checked(vectors: np.ndarray, count: int, dim: int) -> np.ndarray:
    if vectors.shape != (count, dim):
        raise ModelError(f"the encoder gave vectors {vectors.shape} for {count} texts, expected ({count}, {dim})")
    if not np.isfinite(vectors).all():
        raise ModelError(
            "the encoder gave vectors with NaN or infinity: the model is damaged, or its precision too low"
        )
    return vectors


def _documents_digest(documents: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for document in documents:
        body = document.encode("utf-8", "surrogatepass")
        digest.update(len(body).to_bytes(8, "little"))  # so that ["ab", "c"] and ["a", "bc"] differ
        digest.update(body)
    return digest.hexdigest()


def _read_kept(file: Path, manifest: dict[str, Any]) -> np.ndarray | None:
    try:
        if read_json(file.with_suffix(".json")) != manifest:
            raise ValueError("its manifest is another's")
        vectors = np.load(file, mmap_mode="r", allow_pickle=False)
        if vectors.shape != (manifest["documents"], manifest["dim"]) or vectors.dtype != np.float16:
            raise ValueError(f"it holds {vectors.dtype} {vectors.shape}")
        return vectors
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("cached vectors %s cannot be used (%s): encoding the documents anew", file, error)
        return None


def _keep(file: Path, vectors: np.ndarray, manifest: dict[str, Any]) -> None:
    try:
        with atomic_write(file) as temporary, open(temporary, "wb") as handle:
            np.save(handle, vectors, allow_pickle=False)
        write_json(file.with_suffix(".json"), manifest)  # last: without it the vectors are not there
    except OSError as error:
        logger.warning("document vectors were not kept for the next search: %s", error)
