"""What a search returns: documents, each by its best chunks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from limbeck.search.engine import Ask, Engine, Found

_LIMIT = 10_000  # chunks that a search looks at, where many belong to few documents


@dataclass(frozen=True, slots=True)
class Passage:
    """A document that was found, and its best chunk, or another one that `each` lets through."""

    rank: int  # 1 = best
    score: float  # cosine by vectors, BM25 by words, of both the sum of 1 / (60 + rank)
    id: str  # of the document
    text: str  # of the chunk
    title: str
    fields: Mapping[str, Any]
    start: int  # characters of the document's text that the chunk is
    end: int
    chunk: int  # its number, from 0
    chunks: int  # that the document has


def passages(engine: Engine, ask: Ask, k: int, each: int) -> list[Passage]:
    """The k best of a search: more chunks are asked for until k are left, up to `each` a document, or no more come."""
    limit = k if engine.spec.chunks == "none" or each >= k else 2 * k
    while True:
        found = engine.search(replace(ask, limit=limit))
        times: Counter[str] = Counter()
        best: list[Found] = []
        for hit in found:
            times[hit.payload["id"]] += 1
            if times[hit.payload["id"]] <= each:
                best.append(hit)
        if len(best) >= k or len(found) < limit or limit >= _LIMIT:
            break
        limit = min(4 * limit, _LIMIT)
    return [_passage(rank, hit) for rank, hit in enumerate(best[:k], start=1)]


def _passage(rank: int, hit: Found) -> Passage:
    p = hit.payload
    return Passage(
        rank,
        float(hit.score),
        p["id"],
        p["text"],
        p.get("title", ""),
        p.get("fields", {}),
        p["start"],
        p["end"],
        p["chunk"],
        p["chunks"],
    )
