from __future__ import annotations

import json

import numpy as np
import pytest
from blobs import WORDS, blobs, same_groups

from limbeck.cluster import cluster
from limbeck.errors import ConfigError, DataError


def test_clusters_are_found_named_and_numbered_by_size() -> None:
    vectors, labels, texts = blobs(3)
    keep = np.ones(60, bool)
    keep[np.flatnonzero(labels == 0)[:5]] = False  # of the otters there are fewest
    found = cluster(vectors[keep], [t for t, k in zip(texts, keep, strict=True) if k])
    assert same_groups(found.labels, labels[keep])
    assert [c.size for c in found.clusters] == [20, 20, 15]
    assert found.clusters[2].terms == ["otter"] and found.clusters[2].label == "otter"
    assert {c.label for c in found.clusters} == set(WORDS[:3])
    assert found.silhouette is not None and found.silhouette > 0.9 and found.noise == 0
    assert found.tried[3] == max(found.tried.values())


def test_distances_are_to_the_centre_and_central_texts_are_the_nearest() -> None:
    vectors = np.array([[1.0, 0], [1, 1], [1, 0.5], [-1, 0]])
    found = cluster(vectors, ["right", "corner", "middle", "left"], k=2)
    assert found.labels.tolist() == [0, 0, 0, 1]
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    centre = units[:3].sum(axis=0) / np.linalg.norm(units[:3].sum(axis=0))
    assert found.distances == pytest.approx(np.append(1 - units[:3] @ centre, 0), abs=1e-6)
    assert found.clusters[0].central[0] == 2 and found.clusters[1].central == [3]


def test_the_same_seed_gives_the_same_clusters_and_lengths_do_not_count() -> None:
    vectors = np.random.default_rng(0).normal(size=(80, 8))
    texts = [f"text {i}" for i in range(80)]
    first, second = cluster(vectors, texts, seed=5), cluster(vectors * 4, texts, seed=5)
    assert np.array_equal(first.labels, second.labels) and first.tried == second.tried


def test_a_text_that_is_there_twice_stands_for_its_cluster_once() -> None:
    vectors, _, _ = blobs(2, each=4)
    found = cluster(vectors, ["same", "other"] * 4, k=2)
    assert [len(c.central) for c in found.clusters] == [1, 1]


def test_one_text_is_one_cluster() -> None:
    found = cluster(np.ones((1, 3)), ["alone here"])
    assert (found.labels.tolist(), found.silhouette, found.tried) == ([0], None, {})
    assert found.clusters[0].terms == ["alone", "here"] and found.distances[0] == pytest.approx(0, abs=1e-6)


def test_noise_is_in_no_cluster() -> None:
    vectors, _, texts = blobs(3, each=30)
    scattered = np.random.default_rng(1).normal(size=(12, 16))
    found = cluster(np.concatenate([vectors, scattered]), texts + ["odd"] * 12, method="hdbscan", min_size=10)
    assert found.noise == 102 - sum(c.size for c in found.clusters) >= 4
    assert np.isnan(found.distances[found.labels == -1]).all()
    assert found.memberships is not None and (found.memberships[found.labels == -1] == 0).all()
    assert all(found.labels[row] == c.cluster for c in found.clusters for row in c.central)


def test_of_all_noise_there_is_a_clustering_without_clusters() -> None:
    found = cluster(np.eye(3), ["a", "b", "c"], method="hdbscan")
    assert (found.clusters, found.noise, found.silhouette) == ([], 3, None)
    assert json.loads(json.dumps(found.summary(["a", "b", "c"])))["noise"] == 3


@pytest.mark.parametrize(
    ("vectors", "texts", "message"),
    [
        (np.zeros((0, 4)), [], "there are no texts to cluster"),
        (np.ones((2, 4)), ["a"], r"one vector a text, got 1 texts and vectors of shape \(2, 4\)"),
        (np.ones(4), ["a"] * 4, "one vector a text"),
        (np.array([[1.0, 0], [0, 0]]), ["a", "b"], "vector 1 is all zeros"),
        (np.array([[1.0, 0], [np.nan, 0]]), ["a", "b"], "vector 1 holds NaN"),
    ],
)
def test_vectors_that_do_not_fit_are_named(vectors: np.ndarray, texts: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        cluster(vectors, texts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 5}, "cannot make 5 clusters of so few texts .3.: ask for 3 or fewer"),
        ({"k": 0}, "k must be at least 1"),
        ({"method": "dbscan"}, "unknown method 'dbscan'; known are kmeans, hdbscan"),
        ({"method": "hdbscan", "k": 2}, "leave k out"),
        ({"min_size": 2}, "min_size is the smallest cluster of HDBSCAN"),
        ({"method": "hdbscan", "min_size": 1}, "at least 2 texts"),
    ],
)
def test_options_that_do_not_fit_are_named(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cluster(np.eye(3), ["a", "b", "c"], **options)
