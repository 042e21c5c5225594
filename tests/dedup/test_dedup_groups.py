from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dictated import corpus_of, families
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components

from limbeck.dedup import groups as module
from limbeck.dedup import join
from limbeck.dedup.groups import group


def on_circle(*degrees: float) -> np.ndarray:
    """Vectors of 8 dims at these angles in a plane."""
    angles = np.radians(np.array(degrees))
    return np.stack([np.cos(angles), np.sin(angles), *np.zeros((6, len(angles)))], axis=1).astype(np.float32)


NEAR = float(np.cos(np.radians(10.5)))  # degrees apart that are near


@pytest.fixture(autouse=True)
def all_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight bits find what they find: here the cosines alone shall decide."""
    monkeypatch.setattr(join, "radius_of", lambda bits, threshold: bits)


def kept(vectors: np.ndarray, lengths: list[int] | None = None, threshold: float = NEAR, **options: Any) -> list[int]:
    with corpus_of(vectors, lengths) as corpus:
        return group(corpus, threshold, **options).kept.tolist()


def test_a_chain_is_one_group_if_linked_and_several_as_stars() -> None:
    chain = on_circle(0, 10, 20, 30, 90)
    assert kept(chain) == [0, 0, 2, 2, 4]
    assert kept(chain, shape="linked") == [0, 0, 0, 0, 4]


def test_a_text_goes_to_the_nearest_of_those_kept() -> None:
    assert kept(on_circle(0, 16, 9, 6)) == [0, 1, 1, 0]


def test_the_longest_is_kept_and_the_first_of_those_as_long() -> None:
    vectors = on_circle(0, 5, 6, 90, 91)
    assert kept(vectors, [9, 12, 12, 9, 8], keep="longest") == [1, 1, 1, 3, 3]
    assert kept(vectors, [9, 12, 12, 9, 8], keep="longest", shape="linked") == [1, 1, 1, 3, 3]


def test_the_central_text_is_that_with_the_most_near_ones() -> None:
    chain = on_circle(0, 10, 20, 90)
    assert kept(chain, keep="central") == [1, 1, 1, 3]
    assert kept(chain, keep="central", shape="linked") == [1, 1, 1, 3]


def test_scores_are_the_cosines_to_what_is_kept() -> None:
    with corpus_of(on_circle(0, 10, 20)) as corpus:
        np.testing.assert_allclose(group(corpus, NEAR).scores, [1, np.cos(np.radians(10)), 1], atol=1e-3)
        linked = group(corpus, NEAR, shape="linked").scores
        np.testing.assert_allclose(linked, np.cos(np.radians([0, 10, 20])), atol=1e-3)


def stars(cosines: np.ndarray, order: list[int], threshold: float) -> list[int]:
    """The definition, word by word."""
    found: list[int] = []
    of = [-1] * len(order)
    for text in order:
        near = [other for other in found if cosines[text, other] >= threshold]
        of[text] = max(near, key=lambda other: cosines[text, other]) if near else text
        found += [] if near else [text]
    return of


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([1, 3, 16, 512]), st.sampled_from([0.3, 0.6, 0.8]))
def test_groups_are_those_of_the_definition_in_blocks_of_any_size(seed: int, rows: int, threshold: float) -> None:
    with pytest.MonkeyPatch.context() as patch, corpus_of(families(6, 5, 8, spread=0.5, seed=seed)) as corpus:
        patch.setattr(join, "ROWS", rows)
        patch.setattr(join, "_COLUMNS", 7)
        patch.setattr(join, "_STRIP", 4)
        patch.setattr(module, "_EDGES", 10)
        unit = corpus.vectors.astype(np.float32)
        cosines = unit @ unit.T
        assert group(corpus, threshold, workers=1).kept.tolist() == stars(cosines, list(range(30)), threshold)
        by_degree = np.argsort(-(cosines >= threshold).sum(axis=1), kind="stable").tolist()
        assert group(corpus, threshold, keep="central", workers=1).kept.tolist() == stars(cosines, by_degree, threshold)
        labels = connected_components(cosines >= threshold)[1]
        first = [int(np.flatnonzero(labels == label)[0]) for label in labels]
        assert group(corpus, threshold, shape="linked", workers=1).kept.tolist() == first
