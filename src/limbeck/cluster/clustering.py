"""Vectors and their texts → clusters, and what each is about.  N: texts, D: dims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from limbeck.cluster import groups, topics
from limbeck.cluster.groups import NOISE, IntArray
from limbeck.compress import FloatArray, truncate
from limbeck.errors import ConfigError, DataError

Method = Literal["kmeans", "hdbscan"]
METHODS: tuple[Method, ...] = ("kmeans", "hdbscan")

MOST_K = 64  # clusters that a choice by silhouette goes up to: more are no overview
_TERMS = 6  # of a label
_CENTRAL = 3  # texts that stand for a cluster


@dataclass(frozen=True, slots=True)
class Cluster:
    """One cluster. `central` are rows of its most central texts, the nearest to its centre first, no text twice."""

    cluster: int
    size: int
    terms: list[str]  # the heaviest first; none where there are no words
    central: list[int]

    @property
    def label(self) -> str:
        """What it is about, in a few words."""
        return ", ".join(self.terms[:4]) or f"cluster {self.cluster}"


@dataclass(frozen=True, slots=True)
class Clustering:
    """Texts in clusters, which are numbered from the largest (0) to the smallest."""

    method: Method
    labels: IntArray  # [N]; −1 = noise, which HDBSCAN alone has
    distances: FloatArray  # [N], 1 − cosine to the centre of the text's cluster; NaN for noise
    memberships: FloatArray | None  # [N], of HDBSCAN: 1 in the midst of a cluster, 0 for noise
    clusters: list[Cluster]
    silhouette: float | None  # −1 … 1, of at most 2,000 texts, without noise; None where there are no two clusters
    tried: dict[int, float]  # silhouettes of the k's that were tried; empty where k was given

    @property
    def method_name(self) -> str:
        """As people write it."""
        return {"kmeans": "k-means", "hdbscan": "HDBSCAN"}[self.method]

    @property
    def noise(self) -> int:
        """How many texts are in no cluster."""
        return int((self.labels == NOISE).sum())

    def summary(self, texts: Sequence[str]) -> dict[str, Any]:
        """All but the assignments, for JSON; central rows as their texts."""
        described = [
            {**asdict(c), "label": c.label, "central": [texts[row] for row in c.central]} for c in self.clusters
        ]
        return {
            "texts": len(self.labels),
            "method": self.method,
            "k": len(self.clusters),
            "noise": self.noise,
            "silhouette": self.silhouette and round(self.silhouette, 4),
            "tried": {str(k): round(score, 4) for k, score in self.tried.items()},
            "clusters": described,
        }


def check_request(method: str, k: int | None, min_size: int | None) -> None:
    """Raise ConfigError where a method is unknown, or an option is not one of the method."""
    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}; known are {', '.join(METHODS)}")
    if method == "hdbscan" and k is not None:
        raise ConfigError("HDBSCAN finds the number of clusters by itself: leave k out, or take k-means")
    if method == "kmeans" and min_size is not None:
        raise ConfigError("min_size is the smallest cluster of HDBSCAN: leave it out, or take HDBSCAN")
    if k is not None and k < 1:
        raise ConfigError(f"k must be at least 1, got {k}")
    groups.check_hdbscan(0, min_size)


def cluster(
    vectors: np.ndarray,
    texts: Sequence[str],
    *,
    method: Method = "kmeans",
    k: int | None = None,
    most_k: int = MOST_K,
    min_size: int | None = None,
    seed: int = 0,
) -> Clustering:
    """Group texts by their vectors, and say what each group is about.

    The same arguments give the same clusters. Texts in their order and the vectors are held in memory.

    Args:
        vectors: [N, D], any norm; only their direction counts.
        texts: N, which labels and central texts are taken from.
        method: "kmeans": every text is in a cluster, and clusters are round. "hdbscan": clusters are dense regions of
            any shape, and what lies between is noise; for up to 50,000 texts.
        k: clusters of k-means; None = chosen by silhouette among 2 … `most_k`. Texts rarely fall into clusters that
            are well apart, and then the silhouette changes little with k: look at `tried`, and choose by what you need.
        most_k: see k.
        min_size: texts of the smallest cluster of HDBSCAN; None = 1% of the texts, between 5 and 50.
        seed: of all that is drawn.

    Raises:
        ConfigError: k or min_size does not go with the method; k is more than there are different vectors; more than
            50,000 texts for HDBSCAN.
        DataError: no texts, another number of vectors than of texts, or a vector that is all zeros, NaN or infinite.
    """
    check_request(method, k, min_size)
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or len(vectors) != len(texts):
        raise DataError(f"expected one vector a text, got {len(texts)} texts and vectors of shape {vectors.shape}")
    if not len(texts):
        raise DataError("there are no texts to cluster")
    unit = truncate(vectors, vectors.shape[1])
    tried: dict[int, float] = {}
    memberships = None
    if method == "hdbscan":
        groups.check_hdbscan(len(unit), min_size)
        labels, memberships = groups.hdbscan(unit, min_size or groups.smallest_cluster(len(unit)))
    else:
        if k is None:
            k, tried = groups.choose_k(unit, most=most_k, seed=seed)
        labels = groups.k_means(unit, k, seed=seed)
    labels = groups.by_size(labels)
    distances = _distances(unit, labels)
    terms = topics.label_terms(texts, labels, terms=_TERMS)
    found = []
    for c, words in enumerate(terms):
        rows = np.flatnonzero(labels == c)
        found.append(Cluster(c, len(rows), words, _central(texts, rows[np.argsort(distances[rows], kind="stable")])))
    silhouette = groups.Judge(unit, seed=seed)(labels)
    return Clustering(method, labels, distances, memberships, found, silhouette, tried)


def _distances(unit: FloatArray, labels: IntArray) -> FloatArray:
    found = np.full(len(unit), np.nan, np.float32)
    known = np.flatnonzero(labels != NOISE)
    middle = groups.centres(unit, labels)
    for start in range(0, len(known), 8192):  # the centre of each text, a block at a time
        rows = known[start : start + 8192]
        found[rows] = np.clip(1 - np.einsum("nd,nd->n", unit[rows], middle[labels[rows]]), 0, 2)
    return found


def _central(texts: Sequence[str], rows: IntArray) -> list[int]:
    """The first rows whose texts differ."""
    kept: dict[str, int] = {}
    for row in map(int, rows):
        kept.setdefault(texts[row], row)
        if len(kept) == _CENTRAL:
            break
    return list(kept.values())
