"""Effective rank."""

from __future__ import annotations

import numpy as np
import pytest

from limbeck.evaluation.spectrum import effective_rank


def test_it_is_1_for_vectors_that_all_point_the_same_way_and_d_for_a_basis() -> None:
    assert effective_rank(np.outer(np.arange(1, 9), np.array([1.0, 2.0, 3.0]))) == pytest.approx(1)
    assert effective_rank(np.eye(5) * np.arange(1, 6)[:, None]) == pytest.approx(5)


def test_it_weighs_directions_by_how_much_they_are_used() -> None:
    vectors = np.array([[1.0, 0.0]] * 9 + [[0.0, 1.0]])
    # singular values 3 and 1, so shares 3/4 and 1/4
    assert effective_rank(vectors) == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))))
