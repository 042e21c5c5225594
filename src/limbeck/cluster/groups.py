"""Unit vectors → groups: k-means with k given or chosen by silhouette, and HDBSCAN.  N: vectors, D: dims.

Of unit vectors, the squared Euclidean distance that k-means lessens is twice 1 − cosine. One thread computes all of it:
threads add up in the order in which they end, and a last bit decides which of two centres is nearer.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.compress import FloatArray
from limbeck.errors import ConfigError

IntArray = NDArray[np.int64]

NOISE = -1  # the label of what is in no cluster
HDBSCAN_MOST = 50_000  # vectors: HDBSCAN holds each against each other, so that twice as many take four times as long

_LLOYD_MOST = 20_000  # vectors; of more, k-means reads batches
_BATCH = 4096
_STARTS = 4  # of k-means, from other centres each; the best is taken
_SEARCHED = 5000  # vectors that the k's which are tried are fitted to
_JUDGED = 2000  # vectors whose silhouette is taken: a matrix of 2,000² cosines
_EVERY = 10  # k's are tried one by one up to here, and from here on in steps of
_STEP = 1.25
_NEAR = 8  # k's between the neighbours of the best that are tried besides
_TIE = 6  # decimals of a silhouette that count
_DENSITY_DIMS = 10  # of the PCA before HDBSCAN: in hundreds of dims all distances are alike, and there is no density


def k_means(unit: FloatArray, k: int, *, seed: int = 0, starts: int = _STARTS) -> IntArray:
    """Labels 0 … k − 1 by k-means++ and Lloyd's steps, or by batches where there are many. unit: [N, D] → [N].

    Labels are those of scikit-learn: they may be fewer than k where vectors differ by less than rounding. Raises
    ConfigError: k is not in 1 … the number of different vectors.
    """
    import sklearn.cluster
    from sklearn.exceptions import ConvergenceWarning

    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k}")
    if (different := _different(unit, k)) < k:
        among = f"{different} different among {len(unit)}" if different < len(unit) else f"{len(unit)}"
        raise ConfigError(f"cannot make {k} clusters of so few texts ({among}): ask for {different} or fewer")
    kinds: Any = sklearn.cluster  # its parameters are typed by their defaults alone
    if len(unit) <= _LLOYD_MOST:
        model = kinds.KMeans(k, n_init=starts, random_state=seed)
    else:
        model = kinds.MiniBatchKMeans(k, n_init=starts, random_state=seed, batch_size=_BATCH, max_iter=50)
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # vectors that differ by less than rounding
        return model.fit_predict(unit).astype(np.int64)


def choose_k(unit: FloatArray, *, most: int, seed: int = 0) -> tuple[int, dict[int, float]]:
    """The number of clusters with the highest mean silhouette, and the silhouette of each number that was tried.

    Tried are all k up to 10, from there on a geometric series up to `most`, and then what lies beside the best of
    them. Of k's that are as good the smallest is chosen. k-means is fitted to a sample of at most 5,000 vectors, the
    silhouette taken of at most 2,000 of these; k is at most half of them. 1 where no two clusters can be told apart:
    fewer than three vectors, or all alike.
    """
    rows = _sample(len(unit), _SEARCHED, seed)
    searched = unit[rows]
    judge = Judge(searched, seed=seed)
    most = min(most, _different(searched, most), len(searched) // 2 + len(searched) % 2)
    tried: dict[int, float] = {}

    def try_all(ks: Iterable[int]) -> int:
        for k in ks:
            if k not in tried:
                score = judge(k_means(searched, k, seed=seed, starts=1))
                tried[k] = -1.0 if score is None else score
        return max(tried, key=lambda k: (round(tried[k], _TIE), -k), default=1)

    grid = _grid(most)
    best = try_all(grid)
    if best in grid:
        at = grid.index(best)
        low, high = grid[max(at - 1, 0)], grid[min(at + 1, len(grid) - 1)]
        best = try_all(np.unique(np.linspace(low, high, _NEAR + 2).round().astype(int)).tolist())
    return best, dict(sorted(tried.items()))


def hdbscan(unit: FloatArray, min_size: int) -> tuple[IntArray, FloatArray]:
    """Labels and memberships by density (Campello, Moulavi & Sander 2013). unit: [N, D] → [N], −1 = noise, and [N].

    Density is that of the first 10 principal components, scaled to unit length: only their direction counts, so that
    a text is no outlier because they hold little of it. A membership is 1 in the densest part of a cluster, and 0 for
    noise; where five vectors or more are the same, density has no bound, and that of others in their cluster is near 0.
    Vectors that are all alike are one cluster.

    Raises ConfigError: more vectors than `HDBSCAN_MOST`, or min_size < 2.
    """
    from sklearn.cluster import HDBSCAN
    from sklearn.decomposition import PCA

    check_hdbscan(len(unit), min_size)
    if len(unit) < min_size:
        return np.full(len(unit), NOISE, np.int64), np.zeros(len(unit), np.float32)
    centred = unit.astype(np.float64) - unit.mean(axis=0, dtype=np.float64)
    if np.abs(centred).max() < 1e-6:  # all alike, but for rounding
        return np.zeros(len(unit), np.int64), np.ones(len(unit), np.float32)
    with one_thread():
        flat = PCA(min(_DENSITY_DIMS, *unit.shape), svd_solver="full").fit_transform(centred)
        if flat.shape[1] > 2:
            flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
        method: Any = HDBSCAN  # its parameters are typed by their defaults alone
        found = method(min_cluster_size=min_size, min_samples=min(min_size, 5), copy=True).fit(flat)
    return found.labels_.astype(np.int64), found.probabilities_.astype(np.float32)


def check_hdbscan(count: int, min_size: int | None) -> None:
    """Raise ConfigError for more vectors than HDBSCAN takes, or min_size < 2."""
    if min_size is not None and min_size < 2:
        raise ConfigError(f"the smallest cluster has at least 2 texts, got min_size {min_size}")
    if count > HDBSCAN_MOST:
        raise ConfigError(
            f"HDBSCAN holds every text against every other, and is for up to {HDBSCAN_MOST:,} texts, got {count:,}: "
            "take k-means, or a sample of the texts"
        )


def smallest_cluster(count: int) -> int:
    """The fewest texts that HDBSCAN calls a cluster, unless told otherwise: 1% of them, between 5 and 50."""
    return min(50, max(5, count // 100))


def by_size(labels: IntArray) -> IntArray:
    """The same groups, numbered from the largest (0) to the smallest; of two as large, the one that comes first is."""
    names, first, sizes = np.unique(labels[labels >= 0], return_index=True, return_counts=True)
    order = np.lexsort((first, -sizes))
    renamed = np.full(labels.max(initial=0) + 1, NOISE, np.int64)
    renamed[names[order]] = np.arange(len(names))
    return np.where(labels >= 0, renamed[labels], NOISE)


def centres(unit: FloatArray, labels: IntArray) -> FloatArray:
    """Mean direction of each group, unit length; zeros where vectors cancel out. [N, D], [N] → [K, D]."""
    sums = np.zeros((int(labels.max(initial=NOISE)) + 1, unit.shape[1]), np.float64)
    np.add.at(sums, labels[labels >= 0], unit[labels >= 0])
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    return (sums / np.where(norms > 1e-9, norms, np.inf)).astype(np.float32)


class Judge:
    """Mean silhouette (Rousseeuw 1987) of groupings of the same vectors, by 1 − cosine, over a sample of them."""

    def __init__(self, unit: FloatArray, *, seed: int = 0) -> None:
        """unit: [N, D]. Of more than 2,000 vectors a random sample is judged."""
        self._rows = _sample(len(unit), _JUDGED, seed + 1)
        kept = unit[self._rows]
        distances = 1 - kept @ kept.T
        np.fill_diagonal(distances, 0)
        self._distances = np.maximum(distances, 0, out=distances)

    def __call__(self, labels: IntArray) -> float | None:
        """−1 … 1, the higher the better; noise is left out. labels: [N]. None without two groups to compare."""
        from sklearn.metrics import silhouette_score

        labels = labels[self._rows]
        known = labels != NOISE
        if not 2 <= len(np.unique(labels[known])) < known.sum():
            return None
        distances = self._distances if known.all() else self._distances[np.ix_(known, known)]
        return float(silhouette_score(distances, labels[known], metric="precomputed"))


def one_thread() -> AbstractContextManager[Any]:
    """Let the libraries under NumPy and scikit-learn use one thread."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1)


def _grid(most: int) -> list[int]:
    ks = list(range(2, min(most, _EVERY) + 1))
    while ks and ks[-1] < most and ks[-1] >= _EVERY:
        ks.append(min(most, round(ks[-1] * _STEP)))
    return ks


def _sample(count: int, most: int, seed: int) -> IntArray:
    """Rows, in order; all where they are not more than `most`."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def _different(unit: FloatArray, enough: int) -> int:
    """How many different vectors there are, counted up to `enough`."""
    seen: set[bytes] = set()
    for vector in np.ascontiguousarray(unit):
        seen.add(vector.tobytes())
        if len(seen) >= enough:
            break
    return len(seen)
