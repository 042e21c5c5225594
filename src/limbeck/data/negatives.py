"""Hard negatives by the teacher's stored vectors: near to a query, and not its answer. Nothing is encoded.

Q: queries, N: documents, G: distinct documents, D: dims of the teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from limbeck.config import Mining
from limbeck.errors import DataError
from limbeck.nearest import search_blocks

_QUERY_BLOCK = 2048  # with 8,192 documents: 64 MiB of scores, a few times that while they are sifted
# Components of unit vectors are rounded to so many parts. Every sum of their products is then a whole number under 2^24
# and exact in float32, whatever the order: neither the blocks nor the machine decide between equals, and near equals.
# A cosine is off by about 1e-4.
_PARTS = 4000


@dataclass(frozen=True)
class Mined:
    """Negatives of each query, nearest first. indices: [Q, n] int32 into the documents, −1 = none."""

    indices: np.ndarray
    counts: dict[str, int]


def mine(
    queries: np.ndarray,
    documents: np.ndarray,
    gather: Callable[[np.ndarray], np.ndarray],
    answers: Sequence[np.ndarray],
    texts: np.ndarray,
    settings: Mining,
) -> Mined:
    """Find negatives for every query among all documents, a block at a time.

    Documents of one text count as one, and the answers of a query as none: places `settings.ranks` of what is left, in
    the order of the teacher, are looked at. A negative lies at least `settings.margin` (cosine) further from the query
    than the furthest of its answers, so that whichever answer is trained on, the teacher prefers it to the negative by
    the margin; the nearest that do are taken. The result does not depend on the sizes of blocks.

    Memory: 12 bytes for each query and place looked at, and one block of vectors; a million documents of 2,560 dims are
    read from the store's map as they are needed.

    Args:
        queries: [Q] rows of the store.
        documents: [N] rows of the store.
        gather: rows [n] → vectors [n, D], of any norm.
        answers: for each query the indices of the documents that answer it, at least one.
        texts: [N] a number for each document, equal for equal texts.
        settings: that section of a recipe.

    Raises DataError: a query without an answer.
    """
    lengths = np.array([len(a) for a in answers], dtype=np.int64)
    if len(answers) != len(queries) or (len(lengths) and lengths.min() < 1):
        raise DataError("every query needs the documents that answer it: without them any document could be one")
    _, first, group = np.unique(texts, return_index=True, return_inverse=True)
    order = np.argsort(first)  # groups in the order of their first documents, so that ties go by document
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    first, group = first[order], rank[group]
    asked = np.repeat(np.arange(len(queries)), lengths)
    answer = np.concatenate(answers).astype(np.int64) if len(answers) else np.empty(0, np.int64)
    of_query, of_group = np.divmod(np.unique(asked * len(first) + group[answer]), max(1, len(first)))
    starts = np.searchsorted(of_query, np.arange(len(queries) + 1))
    furthest = np.full(len(queries), np.inf)  # cosine of the furthest answer, in parts as the scores are
    held: tuple[int, np.ndarray] = (-1, np.empty(0))

    def parts(rows: np.ndarray) -> np.ndarray:
        vectors = gather(rows).astype(np.float32)
        vectors *= _PARTS / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))
        return np.rint(vectors, out=vectors)

    def score(q: slice, d: slice) -> np.ndarray:
        nonlocal held
        if held[0] != q.start:
            held = (q.start, parts(queries[q]))
        cosines = held[1] @ parts(documents[first[d]]).T
        own = slice(starts[q.start], starts[q.stop])
        inside = (of_group[own] >= d.start) & (of_group[own] < d.stop)
        row, column = of_query[own][inside], of_group[own][inside] - d.start
        np.minimum.at(furthest, row, cosines[row - q.start, column])
        cosines[row - q.start, column] = -np.inf
        return cosines

    low, high = settings.ranks
    hits = search_blocks(len(queries), len(first), high, score, query_block=_QUERY_BLOCK)
    chosen = np.full((len(queries), settings.negatives), -1, dtype=np.int32)
    too_near = 0
    for q in range(0, len(queries), _QUERY_BLOCK):
        block = slice(q, q + _QUERY_BLOCK)
        cosines = hits.scores[block, low - 1 :]
        there = np.isfinite(cosines)
        fits = there & (cosines <= furthest[block, None] - settings.margin * _PARTS**2)
        too_near += int((there & ~fits).sum())
        # the places that fit, in their order, before those that do not
        places = np.argsort(~fits, axis=1, kind="stable")[:, : settings.negatives]
        taken = first[np.take_along_axis(hits.indices[block, low - 1 :], places, axis=1)]
        kept = np.take_along_axis(fits, places, axis=1)
        chosen[block, : places.shape[1]] = np.where(kept, taken, -1)
    found = (chosen >= 0).sum(axis=1)
    same = np.bincount(group, minlength=len(first))[of_group].sum() - len(np.unique(asked * len(texts) + answer))
    counts = {
        "with_all_negatives": int((found == settings.negatives).sum()),
        "with_some_negatives": int(((found > 0) & (found < settings.negatives)).sum()),
        "without_negatives": int((found == 0).sum()),
        "too_near": too_near,  # places looked at that lie within the margin
        "same_text_as_answer": int(same),  # documents passed over, though no answers themselves
    }
    return Mined(chosen, counts)
