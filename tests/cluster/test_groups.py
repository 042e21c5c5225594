from __future__ import annotations

import warnings

import numpy as np
import pytest
from blobs import blobs, same_groups
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import silhouette_score

from limbeck.cluster import groups
from limbeck.errors import ConfigError


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_k_means_finds_clusters_that_are_well_apart(k: int) -> None:
    vectors, labels, _ = blobs(k)
    assert same_groups(groups.k_means(unit(vectors), k), labels)


def test_batches_find_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_LLOYD_MOST", 50)
    vectors, labels, _ = blobs(4)
    found = groups.k_means(unit(vectors), 4)
    assert same_groups(found, labels)
    assert np.array_equal(found, groups.k_means(unit(vectors), 4))


@pytest.mark.parametrize("k", [2, 3, 7, 13])
def test_the_silhouette_chooses_the_true_k(k: int) -> None:
    vectors, _, _ = blobs(k, each=12)
    found, tried = groups.choose_k(unit(vectors), most=40)
    assert found == k
    assert tried[k] == max(tried.values()) > 0.9


def test_no_more_clusters_than_the_most_are_tried() -> None:
    vectors, _, _ = blobs(6)
    found, tried = groups.choose_k(unit(vectors), most=4)
    assert found == max(tried, key=lambda k: tried[k]) and max(tried) == 4


def test_of_ks_that_are_as_good_the_smallest_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups.Judge, "__call__", lambda self, labels: 0.5)
    vectors, _, _ = blobs(3)
    assert groups.choose_k(unit(vectors), most=20)[0] == 2


@pytest.mark.parametrize("count", [1, 2, 9])
def test_vectors_that_are_all_alike_are_one_cluster(count: int) -> None:
    same = np.tile(unit(np.array([[1.0, 2.0, 3.0]], np.float32)), (count, 1))
    assert groups.choose_k(same, most=10) == (1, {})


def test_a_sample_is_enough_to_choose_k(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_SEARCHED", 60)
    monkeypatch.setattr(groups, "_JUDGED", 40)
    vectors, _, _ = blobs(3, each=200)
    assert groups.choose_k(unit(vectors), most=10)[0] == 3


def test_more_clusters_than_different_vectors_are_refused_without_a_warning() -> None:
    vectors = unit(np.repeat(np.eye(3, dtype=np.float32), 4, axis=0))
    with pytest.raises(ConfigError, match=r"cannot make 4 clusters .*3 different among 12.*ask for 3 or fewer"):
        groups.k_means(vectors, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(set(groups.k_means(vectors, 3))) == 3


def test_the_silhouette_is_that_of_scikit_learn() -> None:
    vectors, labels, _ = blobs(3, spread=0.3)
    expected = silhouette_score(vectors, labels, metric="cosine")
    found = groups.Judge(unit(vectors))(labels)
    assert found == pytest.approx(expected, abs=1e-5)


def test_the_silhouette_leaves_noise_out() -> None:
    vectors, labels, _ = blobs(3, spread=0.3)
    noisy = np.where(np.arange(len(labels)) < 9, groups.NOISE, labels)
    expected = silhouette_score(vectors[9:], labels[9:], metric="cosine")
    assert groups.Judge(unit(vectors))(noisy) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], [-1, -1, -1], [0, -1, 1]])
def test_where_no_two_groups_can_be_compared_there_is_no_silhouette(labels: list[int]) -> None:
    assert groups.Judge(np.eye(3, dtype=np.float32))(np.array(labels)) is None


def test_hdbscan_finds_dense_regions_and_calls_the_rest_noise() -> None:
    vectors, labels, _ = blobs(3, each=30)
    scattered = np.random.default_rng(1).normal(size=(12, 16)).astype(np.float32)
    found, memberships = groups.hdbscan(unit(np.concatenate([vectors, scattered])), 10)
    assert same_groups(found[:90], labels)
    assert (found[90:] == groups.NOISE).sum() >= 4
    assert np.array_equal(found == groups.NOISE, memberships == 0)
    assert memberships.max() == 1 and memberships.min() >= 0


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_hdbscan_takes_vectors_of_few_dims(dims: int) -> None:
    vectors = np.random.default_rng(0).normal(size=(40, dims)).astype(np.float32)
    labels, memberships = groups.hdbscan(unit(vectors), 5)
    assert labels.shape == memberships.shape == (40,) and np.isfinite(memberships).all()


def test_hdbscan_of_vectors_that_are_alike_is_one_cluster_and_of_too_few_is_noise() -> None:
    same = np.tile(unit(np.array([[1.0, 2.0]], np.float32)), (6, 1))
    assert groups.hdbscan(same, 5)[0].tolist() == [0] * 6
    assert groups.hdbscan(same, 7)[0].tolist() == [groups.NOISE] * 6


def test_hdbscan_takes_duplicates() -> None:
    vectors = np.repeat(np.eye(4, dtype=np.float32), 8, axis=0)
    assert same_groups(groups.hdbscan(vectors, 5)[0], np.repeat(np.arange(4), 8))


def test_hdbscan_says_how_many_texts_it_takes() -> None:
    with pytest.raises(ConfigError, match="for up to 50,000 texts, got 50,001: take k-means, or a sample"):
        groups.check_hdbscan(50_001, None)


@given(st.lists(st.integers(-1, 5), min_size=1, max_size=40))
def test_numbers_by_size_keep_the_groups_and_leave_no_gap(found: list[int]) -> None:
    labels = np.array(found)
    renamed = groups.by_size(labels)
    assert np.array_equal(labels == -1, renamed == -1)
    known = labels >= 0
    if known.any():
        assert same_groups(renamed[known], labels[known])
        sizes = np.bincount(renamed[known])
        assert (sizes > 0).all() and (np.diff(sizes) <= 0).all()


def test_a_centre_is_the_mean_direction_and_zeros_where_there_is_none() -> None:
    vectors = np.array([[1, 0], [0, 1], [0, 1], [0, -1]], np.float32)
    found = groups.centres(vectors, np.array([0, 0, 1, 1]))
    assert found == pytest.approx(np.array([[0.5**0.5, 0.5**0.5], [0, 0]]))
