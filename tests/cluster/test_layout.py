from __future__ import annotations

import numpy as np
import pytest
from blobs import blobs

from limbeck.cluster import layout
from limbeck.errors import DataError


def test_few_vectors_are_laid_out_as_in_the_report() -> None:
    from limbeck.evaluation.vector_map import project

    vectors, _, _ = blobs(3)
    assert np.array_equal(layout(vectors, seed=3), project(vectors, seed=3))


@pytest.mark.parametrize("count", [1, 2, 5, 60])
def test_any_number_of_vectors_gets_places(count: int) -> None:
    vectors = np.random.default_rng(0).normal(size=(count, 8))
    points = layout(vectors)
    assert points.shape == (count, 2) and np.isfinite(points).all()


def test_more_than_the_anchors_are_put_beside_their_like() -> None:
    vectors, labels, _ = blobs(4, each=60)
    told: list[int] = []
    points = layout(vectors, anchors=60, progress=told.append)
    assert points.shape == (240, 2) and np.isfinite(points).all()
    assert sum(told) == 240
    middles = np.stack([points[labels == c].mean(axis=0) for c in range(4)])
    nearest = np.linalg.norm(points[:, None] - middles, axis=2).argmin(axis=1)
    assert np.array_equal(nearest, labels)
    assert len(np.unique(points, axis=0)) == 240  # like vectors do not hide each other


def test_the_same_seed_gives_the_same_places_and_another_gives_others() -> None:
    vectors, _, _ = blobs(3, each=30)
    assert np.array_equal(layout(vectors, anchors=40, seed=1), layout(vectors, anchors=40, seed=1))
    assert not np.array_equal(layout(vectors, anchors=40, seed=1), layout(vectors, anchors=40, seed=2))


def test_vectors_that_are_all_alike_have_finite_places() -> None:
    assert np.isfinite(layout(np.ones((50, 4)), anchors=20)).all()


@pytest.mark.parametrize("vectors", [np.zeros((0, 4)), np.zeros((3, 4)), np.full((30, 4), np.nan)])
def test_what_has_no_direction_has_no_place(vectors: np.ndarray) -> None:
    with pytest.raises(DataError):
        layout(vectors, anchors=10)
