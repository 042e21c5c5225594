"""Vectors → places on a map, for any number of them.  N: vectors, D: dims.

t-SNE (van der Maaten & Hinton 2008) lays out a few thousand, which are anchors. Each other vector is put among the
anchors that are nearest to it, which keeps near neighbours near for the price of one product of matrices.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from limbeck.cluster.groups import one_thread
from limbeck.compress import FloatArray, truncate
from limbeck.evaluation.vector_map import project

Points = NDArray[np.float64]

ANCHORS = 3000  # t-SNE of these takes up to half a minute on one core; the rest is cheap
_AMONG = 5  # nearest anchors that a vector is put among
_REACH = 3.0  # gaps between neighbouring anchors; farther ones of the five are on another island, and do not count
_NEIGHBOURS = 4  # of an anchor, whose mean distance is the gap around it
_BLOCK = 4096  # vectors compared with the anchors at once


def layout(
    vectors: np.ndarray, *, anchors: int = ANCHORS, seed: int = 0, progress: Callable[[int], None] | None = None
) -> Points:
    """Lay out vectors in the plane: neighbours are alike, distances and axes mean nothing. [N, D], any norm → [N, 2].

    The same vectors and seed give the same points. A vector that is no anchor lies less than a gap between anchors
    from the weighted mean of those near it, in a direction that is drawn: without that, like vectors would hide each
    other.

    Args:
        vectors: of more than `anchors`, so many are drawn, laid out by `evaluation.vector_map.project`, and the others
            put among them.
        anchors: see above.
        seed: of all that is drawn.
        progress: called with the number of vectors placed since the last call.

    Raises DataError: there are none, or one is all zeros, NaN or infinite.
    """
    if len(vectors) <= anchors:
        points = project(vectors, seed=seed)
        if progress:
            progress(len(vectors))
        return points
    unit = truncate(vectors, vectors.shape[1])
    random = np.random.default_rng(seed)
    rows = np.sort(random.choice(len(unit), anchors, replace=False))
    points = np.empty((len(unit), 2))
    points[rows] = project(unit[rows], seed=seed)
    if progress:
        progress(anchors)
    others = np.setdiff1d(np.arange(len(unit)), rows)
    gaps = _gaps(points[rows])
    with one_thread():
        for start in range(0, len(others), _BLOCK):
            block = others[start : start + _BLOCK]
            points[block] = _among(unit[block] @ unit[rows].T, points[rows], gaps, random)
            if progress:
                progress(len(block))
    return points


def _among(cosines: FloatArray, anchors: Points, gaps: NDArray[np.float64], random: np.random.Generator) -> Points:
    """Places among anchors. cosines: [n, A], anchors: [A, 2], gaps: [A] → [n, 2]."""
    some = min(_AMONG, cosines.shape[1])
    near = np.argpartition(-cosines, some - 1, axis=1)[:, :some]
    order = np.argsort(-np.take_along_axis(cosines, near, 1), axis=1, kind="stable")
    near = np.take_along_axis(near, order, 1)  # [n, 5], the nearest first
    alike = np.take_along_axis(cosines, near, 1).astype(np.float64)
    at, gap = anchors[near], gaps[near[:, 0]]
    away = np.linalg.norm(at - at[:, :1], axis=2)
    weights = np.where(away <= _REACH * gap[:, None], np.exp((alike - alike[:, :1]) / 0.05), 0)
    middle = (weights[:, :, None] * at).sum(axis=1) / weights.sum(axis=1, keepdims=True)
    radius = gap * np.sqrt(random.random(len(at)))  # the root makes a disc evenly full
    angle = 2 * np.pi * random.random(len(at))
    return middle + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _gaps(anchors: Points) -> NDArray[np.float64]:
    """How far the neighbours of each anchor are; of a far-off one no more than is common. [A, 2] → [A]."""
    from scipy.spatial import KDTree

    found, _ = KDTree(anchors).query(anchors, k=min(_NEIGHBOURS + 1, len(anchors)))
    gaps = found[:, 1:].mean(axis=1)
    return np.minimum(gaps, np.quantile(gaps, 0.9))
