"""Near pairs → groups of duplicates, each with the text that is kept.  N: rows, T: different texts, G: groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from limbeck.dedup.corpus import Corpus, IntArray
from limbeck.dedup.join import Pairs, self_join

Keep = Literal["first", "longest", "central"]
Shape = Literal["star", "linked"]

_EDGES = 1 << 22  # pairs held until components are made of them: 64 MiB


@dataclass(frozen=True)
class Groups:
    """Which text stands for which."""

    kept: IntArray  # [T]: the text that stands for each; itself where it is kept
    scores: NDArray[np.float32]  # [T]: cosine to the kept text, 1 of itself


def group(
    corpus: Corpus,
    threshold: float,
    *,
    keep: Keep = "first",
    shape: Shape = "star",
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Groups:
    """Group texts whose cosine reaches the threshold.

    No pairs are stored: the memory is that of a few numbers a text, however many pairs there are.

    Args:
        corpus: the texts.
        threshold: a cosine.
        keep: which text of a group is kept: the first, the longest (in characters), or the one with the most near
            texts, for which all pairs are looked at once more. The first of those that are equal.
        shape: "star": every text is near the one that stands for it. Texts are taken in the order of `keep`; one that
            is near a kept text, or several, goes to the nearest, and else it is kept. "linked": all that are joined by
            a chain of near pairs, the ends of which may have little in common.
        workers: threads; None = one for each core.
        progress: called with the number of texts looked at; all of them twice for "central".
    """
    order = np.arange(len(corpus), dtype=np.int64)
    if keep == "longest":
        order = np.argsort(-corpus.lengths, kind="stable")
    elif keep == "central":
        counted = _Counts(len(corpus), threshold)
        self_join(corpus, order, threshold, counted, workers=workers, progress=progress)
        order = np.argsort(-counted.counts, kind="stable")
    visitor = (_Star if shape == "star" else _Linked)(len(corpus), threshold)
    self_join(corpus, order, threshold, visitor, workers=workers, progress=progress)
    kept = visitor.kept(order)
    scores = corpus.cosines(np.arange(len(corpus)), kept)
    scores[kept == np.arange(len(corpus))] = 1
    return Groups(kept, scores)


class AllPairs:
    """A visitor that sees every near pair, whichever of the two comes first."""

    def __init__(self, threshold: float) -> None:
        """threshold: that of the join."""
        self._threshold = threshold

    def pairs(self, found: Pairs) -> None:
        """Take near pairs."""
        raise NotImplementedError

    def admit(self, texts: IntArray, cosines: NDArray[np.float32]) -> IntArray:
        """All of them, after taking the pairs among them."""
        i, j = np.nonzero(np.tril(cosines >= self._threshold, -1))
        if len(i):
            self.pairs(Pairs(texts[i], texts[j], cosines[i, j]))
        return texts


class _Counts(AllPairs):
    """How many near texts each has."""

    def __init__(self, count: int, threshold: float) -> None:
        super().__init__(threshold)
        self.counts = np.zeros(count, np.int64)

    def pairs(self, found: Pairs) -> None:
        for side in (found.now, found.before):
            self.counts += np.bincount(side, minlength=len(self.counts))


class _Linked(AllPairs):
    """Connected components."""

    def __init__(self, count: int, threshold: float) -> None:
        super().__init__(threshold)
        self._labels = np.arange(count)
        self._edges: list[IntArray] = []
        self._waiting = 0

    def pairs(self, found: Pairs) -> None:
        now, before = self._labels[found.now], self._labels[found.before]
        apart = now != before  # most pairs of a large group are of one component already
        self._edges.append(np.stack([now[apart], before[apart]]))
        self._waiting += int(apart.sum())
        if self._waiting > _EDGES:
            self._merge()

    def kept(self, order: IntArray) -> IntArray:
        """[T]: the first of each text's component."""
        self._merge()
        places = np.unique(self._labels[order], return_index=True)[1]
        first = np.empty(len(order), np.int64)
        first[self._labels[order[places]]] = order[places]
        return first[self._labels]

    def _merge(self) -> None:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if not self._waiting:
            return
        count = len(self._labels)
        edges = np.concatenate(self._edges, axis=1)
        graph = coo_array((np.ones(edges.shape[1], np.int8), (edges[0], edges[1])), shape=(count, count))
        self._labels = connected_components(graph, directed=False)[1].astype(np.int64)[self._labels]
        self._edges, self._waiting = [], 0


class _Star:
    """Each text goes to the nearest of those kept before it, or is kept."""

    def __init__(self, count: int, threshold: float) -> None:
        self._threshold = threshold
        self._kept = np.full(count, -1, np.int64)
        self._cosines = np.full(count, -np.inf, np.float32)

    def pairs(self, found: Pairs) -> None:
        best = np.lexsort((np.arange(len(found.now)), -found.cosines, found.now))
        best = best[np.unique(found.now[best], return_index=True)[1]]
        now, before, cosines = found.now[best], found.before[best], found.cosines[best]
        nearer = cosines > self._cosines[now]
        self._kept[now[nearer]], self._cosines[now[nearer]] = before[nearer], cosines[nearer]

    def admit(self, texts: IntArray, cosines: NDArray[np.float32]) -> IntArray:
        kept, best = self._kept[texts], self._cosines[texts]
        chosen = []
        for i, text in enumerate(texts):
            if kept[i] >= 0:
                continue
            chosen.append(i)
            kept[i] = text
            later = cosines[i + 1 :, i]
            nearer = np.flatnonzero((later >= self._threshold) & (later > best[i + 1 :])) + i + 1
            kept[nearer], best[nearer] = text, cosines[nearer, i]
        self._kept[texts], self._cosines[texts] = kept, best
        return texts[chosen]

    def kept(self, order: IntArray) -> IntArray:
        """[T]."""
        return self._kept
