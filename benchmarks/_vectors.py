"""What search benchmarks search: clustered vectors, vectors of texts that are encoded once; and what finding is worth.

Legend: `N` documents, `Q` queries, `D` dims, `k` hits a query.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

CHUNK = 2048  # texts encoded between two notes of how far it is


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def clustered(folder: Path, points: int, queries: int, dims: int, seed: int) -> np.ndarray:
    """Unit vectors in clusters of about 100, float32 [points, dims]: a file that is mapped; queries are drawn alike.

    Written to vectors.npy and queries.npy of the folder. The cosine of two of one cluster is about 0.83, which is hard
    for one bit a dimension: what separates the ten nearest from the rest of their cluster is small.
    """
    rng = np.random.default_rng(seed)
    centres = unit(rng.standard_normal((max(1, points // 100), dims), np.float32))

    def drawn(n: int) -> np.ndarray:
        noise = rng.standard_normal((n, dims), np.float32) * np.float32(0.45 / dims**0.5)
        return unit(centres[rng.integers(len(centres), size=n)] + noise)

    vectors = np.lib.format.open_memmap(folder / "vectors.npy", mode="w+", dtype=np.float32, shape=(points, dims))
    for start in range(0, points, 50_000):
        vectors[start : start + 50_000] = drawn(min(50_000, points - start))
    np.save(folder / "queries.npy", drawn(queries))
    return vectors


def read_texts(files: Sequence[str], field: str, most: int) -> list[str]:
    """Distinct texts of files: plain lines or JSON lines, also .gz; at most `most`, evenly spaced, in their order."""
    found: dict[str, None] = {}
    for file in files:
        plain = not file.removesuffix(".gz").endswith((".jsonl", ".ndjson"))
        with gzip.open(file, "rt", encoding="utf-8") if file.endswith(".gz") else open(file, encoding="utf-8") as lines:
            for line in lines:
                text = line if plain else str(json.loads(line).get(field) or "")
                if text.strip():
                    found[text.strip()] = None
    if not found:
        raise SystemExit(f"{', '.join(files)}: no texts, or none in a field {field!r}")
    return spaced(list(found), most)


def spaced(texts: list[str], most: int) -> list[str]:
    """At most so many of them, evenly spaced."""
    return [texts[int(i)] for i in np.linspace(0, len(texts) - 1, min(most, len(texts)))]


def held_out(texts: list[str], count: int) -> tuple[list[str], list[str]]:
    """Queries where there are none: so many documents leave, evenly spaced, and their first lines are asked for.

    Returns the queries and the documents that stay.
    """
    asked = spaced(texts, count)
    gone = set(asked)
    return [text.splitlines()[0][:200] for text in asked], [text for text in texts if text not in gone]


def encoded(
    encoder: Any, texts: Sequence[str], role: Literal["query", "document"], dim: int, cache: Path
) -> np.ndarray:
    """Vectors of texts for retrieval, float32 [N, dim], a mapped file that is kept; a killed encoding goes on."""
    task = "retrieval" if "retrieval" in encoder.tasks else None
    digest = hashlib.sha256(f"{encoder.fingerprint_of(task)}\0{role}\0{dim}".encode())
    for text in texts:
        digest.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    file = cache / f"{digest.hexdigest()[:32]}.npy"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        part, note = file.with_suffix(".part"), file.with_suffix(".done")
        done = int(note.read_text()) if part.exists() and note.exists() else 0
        mode: Any = "r+" if done else "w+"
        vectors = np.lib.format.open_memmap(part, mode=mode, dtype=np.float32, shape=(len(texts), dim))
        for start in range(done, len(texts), CHUNK):
            chunk = list(texts[start : start + CHUNK])
            vectors[start : start + len(chunk)] = encoder.encode(chunk, role=role, task=task, dim=dim)
            vectors.flush()
            note.write_text(str(start + len(chunk)))
            print(f"encoded   {start + len(chunk):,} of {len(texts):,} ({role})", flush=True)
        part.rename(file)
        note.unlink(missing_ok=True)
    return np.load(file, mmap_mode="r")


def recalls(found: np.ndarray, queries: np.ndarray, vectors: np.ndarray, floors: np.ndarray) -> NDArray[np.float64]:
    """Of each query, the share of its k nearest documents that were found. → [Q], 0 … 1.

    One that is as near as the k-th nearest counts, whichever of such twins the exact search took.

    Args:
        found: ids of documents [Q, k], -1 where there were fewer hits.
        queries: [Q, D].
        vectors: [N, D].
        floors: score of the k-th nearest by exact search, [Q].
    """
    shares = np.empty(len(found))
    for i, (ids, query, floor) in enumerate(zip(found, queries, floors, strict=True)):
        distinct = np.unique(ids[ids >= 0])
        shares[i] = np.count_nonzero(vectors[distinct] @ query >= floor - 1e-6) / found.shape[1]
    return shares


def shape_of_space(vectors: np.ndarray, seed: int = 0, pairs: int = 20_000) -> dict[str, float]:
    """How evenly vectors lie on the sphere, by random pairs.

    `mean_cosine` is 0 and `second_moment` · D is 1 where they lie evenly: the two terms of the orthogonal regulariser
    (Zhang et al. 2017, arXiv 1708.06320).
    """
    rng = np.random.default_rng(seed)
    left, right = rng.integers(len(vectors), size=(2, pairs))
    apart = left != right
    cosines = np.einsum("nd,nd->n", vectors[left[apart]], vectors[right[apart]])
    return {
        "mean_cosine": float(cosines.mean()),
        "second_moment_times_dims": float((cosines**2).mean() * vectors.shape[1]),
    }
