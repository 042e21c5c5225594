from __future__ import annotations

import numpy as np
import pytest
from dictated import corpus_of, families

from limbeck.compress import hamming_distance
from limbeck.dedup import join
from limbeck.dedup.corpus import Corpus, IntArray
from limbeck.dedup.groups import AllPairs
from limbeck.dedup.join import Pairs, radius_of, self_join


class Seen(AllPairs):
    def __init__(self, threshold: float) -> None:
        super().__init__(threshold)
        self.found: list[tuple[int, int]] = []
        self.cosines: list[float] = []

    def pairs(self, found: Pairs) -> None:
        self.found += list(zip(found.now.tolist(), found.before.tolist(), strict=True))
        self.cosines += found.cosines.tolist()


def seen(corpus: Corpus, threshold: float, order: IntArray | None = None, **options: int) -> Seen:
    visitor = Seen(threshold)
    self_join(corpus, np.arange(len(corpus)) if order is None else order, threshold, visitor, **options)
    return visitor


@pytest.mark.parametrize("dims", [8, 72, 256])
def test_every_pair_within_radius_and_threshold_is_found_once_in_tiles_of_any_size(
    dims: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    threshold = 0.9
    vectors = families(15, 4, dims, spread=0.3)
    with corpus_of(vectors) as corpus:
        exact = corpus.vectors.astype(np.float32) @ corpus.vectors.astype(np.float32).T
        near = (exact >= threshold) & (hamming_distance(corpus.bits, corpus.bits) <= radius_of(dims, threshold))
        expected = {(i, j) for i, j in zip(*np.nonzero(near), strict=True) if i > j}
        assert len(expected) >= 50
        for rows, strip, columns in [(1, 1, 1), (7, 3, 5), (512, 64, 4096)]:
            monkeypatch.setattr(join, "ROWS", rows)
            monkeypatch.setattr(join, "_STRIP", strip)
            monkeypatch.setattr(join, "_COLUMNS", columns)
            done: list[int] = []
            visitor = seen(corpus, threshold, workers=2, progress=done.append)
            outside = {pair for pair in visitor.found if pair not in expected}
            assert expected <= set(visitor.found) and len(set(visitor.found)) == len(visitor.found)
            assert all(exact[pair] >= threshold for pair in outside)  # in one block the bits are not asked
            np.testing.assert_allclose(visitor.cosines, [exact[pair] for pair in visitor.found], atol=1e-5)
            assert sum(done) == 60
            assert rows > 1 or not outside


@pytest.mark.parametrize("dense", [0, 1])
def test_cosines_are_the_same_where_most_of_a_tile_is_near(dense: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "ROWS", 8)
    monkeypatch.setattr(join, "_DENSE", dense)
    with corpus_of(families(1, 40, 64, spread=0.3)) as corpus:
        unit = corpus.vectors.astype(np.float32)
        visitor = seen(corpus, 0.8)
        assert len(visitor.found) > 600
        np.testing.assert_allclose(visitor.cosines, [unit[i] @ unit[j] for i, j in visitor.found], atol=1e-5)


def test_the_bits_find_all_but_few_of_the_pairs_at_the_threshold() -> None:
    draw = np.random.default_rng(0)
    a = draw.normal(size=(4000, 256))
    b = draw.normal(size=(4000, 256))
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    b -= (a * b).sum(axis=1, keepdims=True) * a
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    for cosine in (0.8, 0.95):
        c = cosine * a + np.sqrt(1 - cosine**2) * b
        apart = ((a > 0) != (c > 0)).sum(axis=1)
        found = (apart <= radius_of(256, cosine)).mean()
        assert 0.996 <= found < 1  # 0.999, give or take four standard errors


def test_the_radius_is_nothing_at_one_and_everything_at_minus_one() -> None:
    assert radius_of(256, 1) == 0 and radius_of(256, -1) == 256
    assert radius_of(256, 0) == 128 + 24  # half the bits, and 3.09 deviations of 8


def test_an_order_says_who_comes_before_whom() -> None:
    with corpus_of(np.eye(8)[[0, 1, 0]]) as corpus:
        assert seen(corpus, 0.9).found == [(2, 0)]
        assert seen(corpus, 0.9, np.array([2, 1, 0])).found == [(0, 2)]


def test_later_texts_are_compared_with_those_admitted_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "ROWS", 1)

    class First(Seen):
        def admit(self, texts: IntArray, cosines: np.ndarray) -> IntArray:
            return texts[texts == 0]

    with corpus_of(np.ones((4, 8))) as corpus:
        visitor = First(0.9)
        self_join(corpus, np.arange(4), 0.9, visitor)
        assert visitor.found == [(1, 0), (2, 0), (3, 0)]


def test_a_visitor_that_raises_ends_the_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "ROWS", 1)
    monkeypatch.setattr(join, "_COLUMNS", 1)

    class Stops(Seen):
        def pairs(self, found: Pairs) -> None:
            raise KeyboardInterrupt

    with corpus_of(np.ones((50, 8))) as corpus, pytest.raises(KeyboardInterrupt):
        self_join(corpus, np.arange(50), 0.9, Stops(0.9), workers=2)
