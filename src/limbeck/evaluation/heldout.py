"""Held-out retrieval of a run: teacher, student, the student before its first step and others, on the same queries.

Vectors are encoded once and reused over widths and precisions.  Q: queries, N: documents, D: dims.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, Protocol

import numpy as np

from limbeck.data.dedup import stable_hash
from limbeck.data.prepare import Prepared
from limbeck.errors import DataError
from limbeck.evaluation.compression import compression_curve_of
from limbeck.evaluation.retrieval import RetrievalScores, evaluate_retrieval
from limbeck.evaluation.scores import DimScore, ExampleHit, ExampleSearch

logger = logging.getLogger(__name__)

Vectors = Callable[[str, Sequence[str]], np.ndarray]
"""(role, texts) → float32 [N, D]."""

Part = Literal["dev", "test"]
"""Of what is held out: "test" is what reports show, "dev" what picks between checkpoints. They share nothing asked."""


class Speaks(Protocol):
    """Anything that encodes by role."""

    def encode(self, texts: Sequence[str], *, role: str) -> Any:
        """Texts → vectors."""
        ...


@dataclass(frozen=True)
class HeldOut:
    """One retrieval set: every query has one document that answers it, among all held-out documents of its source."""

    source: str
    ids: list[str]
    queries: list[str]
    documents: list[str]
    relevant: list[set[int]]  # of each query, indices into `documents`


def heldout_sets(prepared: Prepared, limit: int) -> list[HeldOut]:
    """The held-out pairs of each source that has pairs, at most `limit` queries of each (a stable sample).

    Warns of sources with so few documents that every query finds all of them. Raises DataError when no source has any.
    """
    sets = retrieval_sets(prepared, limit, "test")
    if not sets:
        raise DataError(
            "no source has held-out pairs to evaluate on: raise data.heldout_fraction, or add a source of pairs"
        )
    if few := [f"{held.source} {len(held.documents)}" for held in sets if len(held.documents) <= 10]:
        logger.warning(
            "held-out documents so few that every query finds all of them within the ten best: %s; "
            "their scores say little: raise data.heldout_fraction",
            ", ".join(few),
        )
    return sets


def retrieval_sets(prepared: Prepared, limit: int, part: Part) -> list[HeldOut]:
    """As `heldout_sets`, or none: "test" asks the first `limit` queries in the order of their hash, "dev" the next.

    Both search in the same documents. A source with no query beyond the first `limit` has no dev set.
    """
    first = 0 if part == "test" else limit
    sets = []
    for name, split in prepared.sources.items():
        if split.heldout.kind not in ("pair", "triplet"):  # scored pairs say how alike, not what answers what
            continue
        queries, documents, ids = split.heldout.texts("query"), split.heldout.texts("document"), split.heldout.ids
        place: dict[str, int] = {}
        for document in documents:
            place.setdefault(document, len(place))
        first_id = {place[d]: i for d, i in reversed(list(zip(documents, ids, strict=True)))}
        answers: dict[str, set[int]] = {}
        for query, document in zip(queries, documents, strict=True):
            answers.setdefault(query, set()).add(place[document])
        chosen = sorted(answers, key=stable_hash)[first : first + limit]
        if chosen:
            all_ids = [first_id[i] for i in range(len(place))]
            sets.append(HeldOut(name, all_ids, chosen, list(place), [answers[q] for q in chosen]))
    return sets


@dataclass(frozen=True)
class Scored:
    """A model on all sets: metrics averaged over sets with equal weight, widths and bits, and its hits."""

    means: dict[str, float]
    curve: list[DimScore]
    by_set: list[RetrievalScores]


def score(sets: Sequence[HeldOut], vectors: Vectors, dims: Sequence[int]) -> Scored:
    """Encode every set once and score it at full width, and at every width in each way of storing documents."""
    by_set, curves = [], []
    for held in sets:
        queries, documents = vectors("query", held.queries), vectors("document", held.documents)
        by_set.append(evaluate_retrieval(queries, documents, held.relevant))
        widths = [d for d in dims if d < queries.shape[1]]
        curves.append(compression_curve_of(queries, documents, held.relevant, widths))
    means = {k: float(np.mean([s.means()[k] for s in by_set])) for k in by_set[0].means()}
    full = means["ndcg_at_10"]
    curve = []
    for points in zip(*curves, strict=True):  # one width and storage in every set
        mean = float(np.mean([point.score for point in points]))
        about = points[0].model_dump(include={"dim", "precision", "rescored_by", "bytes"})
        curve.append(DimScore(**about, ndcg_at_10=mean, relative_to_full=mean / full if full else None))
    return Scored(means, curve, by_set)


def examples(sets: Sequence[HeldOut], scored: Scored, count: int = 3, shown: int = 5) -> list[ExampleSearch]:
    """A few searches of the first set, taken evenly from all its queries whatever came out: none is picked for show."""
    held, hits = sets[0], scored.by_set[0].hits
    found = []
    for q in np.linspace(0, len(held.queries) - 1, min(count, len(held.queries))).astype(int):
        gold = held.relevant[q]
        ranked = list(zip(hits.indices[q].tolist(), hits.scores[q].tolist(), strict=True))
        found.append(
            ExampleSearch(
                query=held.queries[q],
                gold=held.ids[min(gold)],
                gold_rank=next((r + 1 for r, (d, _) in enumerate(ranked) if d in gold), None),
                hits=[
                    ExampleHit(id=held.ids[d], score=s, gold=d in gold, text=held.documents[d][:200])
                    for d, s in ranked[:shown]
                ],
            )
        )
    return found


def texts_per_second(sides: dict[str, Callable[[], Any]], texts: int, rounds: int = 3) -> dict[str, float]:
    """Median speed of each side over rounds in which they take turns, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, work in sides.items():
            start = time.perf_counter()
            work()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: texts / median(taken) for name, taken in times.items()}
