"""A binary self-join: pairs at a small Hamming distance, tile by tile, and of these the ones whose cosine is enough.

Legend: `T` texts, `B` bits, `W` = B / 64 words, `P` pairs.

Every two texts are compared, bits against bits, so that the time grows with T² and the memory does not. An index that
looks at fewer pairs would have to be told how near is near: at a cosine of 0.9 one bit in seven differs, too many for
buckets of equal pieces of the bits to find all. FAISS, whose `IndexBinaryFlat.range_search` does the same, takes about
three quarters of the time (`benchmarks/dedup_join.py --vectors 100000`, one core): too little for a dependency.

A pair at an angle θ differs in θ / π of its bits, if these are signs of random directions (Goemans and Williamson 1995;
Charikar 2002): so many that all but one in a thousand pairs at the threshold are found, and more of those above it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from limbeck.compress import popcount, words_of_bits
from limbeck.dedup.corpus import Corpus, IntArray
from limbeck.machine import usable_cores

ROWS = 256  # whose pairs are looked at together
_STRIP, _COLUMNS = 64, 4096  # texts compared at once: 2 MiB of words, which stay in the cache
_DEVIATIONS = 3.09  # of the number of differing bits: 999 in 1,000 are below
_SURVIVOR = 10.0  # words that comparing the rest of a pair costs, beside those of all pairs
_DENSE = 1 / 32  # of a tile's pairs; from there on the cosines of all of them cost less than of those that are near
_PROBED = 100_000  # pairs that tell how many words all pairs are compared by


class Pairs(NamedTuple):
    """Near pairs: of texts now looked at, with texts that came before."""

    now: IntArray  # [P]
    before: IntArray  # [P]
    cosines: NDArray[np.float32]  # [P]


class Visitor(Protocol):
    """What is done with near pairs."""

    def pairs(self, found: Pairs) -> None:
        """Take near pairs of texts now looked at with those admitted before."""
        ...

    def admit(self, texts: IntArray, cosines: NDArray[np.float32]) -> IntArray:
        """Choose which of the texts now looked at [n], all of whose pairs were given, later ones are compared with.

        cosines: [n, n], between themselves.
        """
        ...


def radius_of(bits: int, threshold: float) -> int:
    """The Hamming distance within which 999 in 1,000 pairs at the threshold lie. threshold: a cosine."""
    share = math.acos(max(-1.0, min(1.0, threshold))) / math.pi
    return min(bits, math.floor(bits * share + _DEVIATIONS * math.sqrt(bits * share * (1 - share))))


def self_join(
    corpus: Corpus,
    order: IntArray,
    threshold: float,
    visitor: Visitor,
    *,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Show all near pairs to a visitor: each text, in order, with those before it that were admitted.

    Args:
        corpus: the texts.
        order: [T], all texts or some.
        threshold: cosine from which a pair is near.
        visitor: is called from this thread alone.
        workers: threads; None = one for each core.
        progress: called with the number of texts looked at since the last call.
    """
    words = words_of_bits(corpus.bits)  # [T, W]
    radius = radius_of(corpus.bits.shape[1] * 8, threshold)
    columns = np.empty((words.shape[1], len(order)), np.uint64)  # of admitted texts
    admitted = np.empty(len(order), np.int64)
    count = 0
    head = _head(words, radius)

    def tile(now: IntArray, start: int, stop: int) -> Pairs:
        i, j = _near_bits(words[now], columns[:, start:stop], radius, head)
        earlier = admitted[start:stop]
        left, right = now[i], earlier[j]
        if len(i) > len(now) * len(earlier) * _DENSE:
            a, b = corpus.vectors[now].astype(np.float32), corpus.vectors[earlier].astype(np.float32)
            cosines = np.clip(a @ b.T, -1, 1)[i, j]
        else:
            cosines = corpus.cosines(left, right)
        near = cosines >= threshold
        return Pairs(left[near], right[near], cosines[near])

    workers = workers or usable_cores()
    with ThreadPoolExecutor(workers) as pool:
        for first in range(0, len(order), ROWS):
            now = order[first : first + ROWS]
            tiles = (pool.submit(tile, now, start, min(start + _COLUMNS, count)) for start in range(0, count, _COLUMNS))
            try:
                for found in _some_ahead(tiles, workers + 2):
                    if len(found.now):
                        visitor.pairs(found)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
            vectors = corpus.vectors[now].astype(np.float32)
            chosen = visitor.admit(now, np.clip(vectors @ vectors.T, -1, 1))
            columns[:, count : count + len(chosen)] = words[chosen].T
            admitted[count : count + len(chosen)] = chosen
            count += len(chosen)
            if progress:
                progress(len(now))


def _some_ahead(tiles: Iterator[Future[Pairs]], ahead: int) -> Iterator[Pairs]:
    """Results in order, of which no more than `ahead` wait in memory."""
    waiting = list(islice(tiles, ahead))
    while waiting:
        yield waiting.pop(0).result()
        waiting.extend(islice(tiles, 1))


def _near_bits(
    queries: NDArray[np.uint64], columns: NDArray[np.uint64], radius: int, head: int
) -> tuple[IntArray, IntArray]:
    """Pairs within the radius. [n, W], [W, m] → places in each, sorted.

    All pairs are compared by their first `head` words, and the others by those pairs alone that are near so far.
    """
    found_i, found_j = [], []
    for start in range(0, len(queries), _STRIP):
        strip = queries[start : start + _STRIP]
        distances = popcount(strip[:, 0, None] ^ columns[0]).astype(np.uint16 if head > 3 else np.uint8, copy=False)
        for word in range(1, head):
            distances += popcount(strip[:, word, None] ^ columns[word])
        i, j = np.divmod(np.flatnonzero(distances <= radius), columns.shape[1])
        if head < len(columns):
            rest = popcount(strip[i, head:] ^ columns[head:, j].T).sum(axis=1, dtype=np.int64)
            near = distances[i, j] + rest <= radius
            i, j = i[near], j[near]
        found_i.append(i + start)
        found_j.append(j)
    return np.concatenate(found_i), np.concatenate(found_j)


def _head(words: NDArray[np.uint64], radius: int) -> int:
    """By how many words to compare all pairs, so that the whole costs least; told by random pairs."""
    i, j = np.random.default_rng(0).integers(0, len(words), (2, _PROBED))
    distances = popcount(words[i] ^ words[j]).astype(np.int64).cumsum(axis=1)
    costs = np.arange(1, words.shape[1] + 1) + _SURVIVOR * (distances <= radius).mean(axis=0)
    return int(costs.argmin()) + 1
