"""Labels → triplets: balanced, of one label each, and with negatives that share none."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.data import triplets
from limbeck.data.triplets import LabelTriplets, shares_label
from limbeck.errors import DataError


def made(labels: list[tuple[str, ...]], *, vectors: np.ndarray | None = None, **changes: Any) -> LabelTriplets:
    store = np.random.default_rng(0).standard_normal((len(labels), 4)) if vectors is None else vectors
    given_: dict[str, Any] = {"negatives": 1, "confusable": 2, "count": 200, "seed": 0}
    rows = np.arange(len(labels))
    texts = changes.pop("texts", rows)
    return LabelTriplets.make(labels, rows, lambda r: store[r].astype(np.float16), texts, **(given_ | changes))


def test_every_label_is_drawn_as_often_however_many_texts_it_has() -> None:
    found = made([("many",)] * 50 + [("few",)] * 3 + [("some",)] * 10, count=300)
    assert Counter(found.labels[i] for i in found.label) == {"many": 100, "few": 100, "some": 100}


def test_all_texts_of_a_label_are_anchors_before_one_is_so_again() -> None:
    found = made([("a",)] * 10 + [("b",)] * 10, count=40)
    assert set(Counter(found.anchor.tolist()).values()) == {2}


@given(st.integers(0, 10_000), st.integers(4, 30), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_positives_share_the_label_and_negatives_share_none(seed: int, texts: int, negatives: int) -> None:
    draw = np.random.default_rng(seed)
    names = ["a", "b", "c", "d"]
    labels = [tuple(sorted(draw.choice(names, draw.integers(1, 3), replace=False))) for _ in range(texts)]
    numbers = draw.integers(0, texts, texts)  # some texts are the same
    having = {
        int(n): {own for other, m in zip(labels, numbers, strict=True) if m == n for own in other} for n in numbers
    }
    try:
        found = made(labels, texts=numbers, negatives=negatives, seed=seed)
    except DataError:
        return
    for row in range(len(found.label)):
        label = found.labels[found.label[row]]
        anchor, positive = int(found.anchor[row]), int(found.positive[row])
        own = having[int(numbers[anchor])]
        assert label in own and label in having[int(numbers[positive])]
        assert numbers[anchor] != numbers[positive]
        for negative in found.negatives[row]:
            fits = [n for n in having if not having[n] & own]
            assert int(numbers[negative]) in fits if negative >= 0 else len(fits) < negatives
    for sets, number in zip(found.label_sets, numbers, strict=True):
        assert {found.labels[i] for i in sets if i >= 0} == having[int(number)]


def test_negatives_come_from_the_labels_whose_texts_the_teacher_finds_nearest() -> None:
    directions = {"cat": [1, 0, 0, 0], "lion": [0.9, 0.4, 0, 0], "car": [0, 0, 1, 0], "bus": [0, 0, 0.9, 0.4]}
    labels = [(name,) for name in directions for _ in range(8)]
    vectors = np.array([directions[name] for (name,) in labels])
    found = made(labels, vectors=vectors, confusable=1)
    nearest = {"cat": "lion", "lion": "cat", "car": "bus", "bus": "car"}
    for label, (negative,) in zip(found.label, found.negatives, strict=True):
        assert labels[negative] == (nearest[found.labels[label]],)


def test_a_label_seen_once_is_left_out_and_counted() -> None:
    found = made([("a",)] * 3 + [("b",)] * 3 + [("once",)])
    assert found.counts == {"labels": 2, "labels_seen_once": 1, "texts_left_out": 1, "negatives_not_found": 0}
    assert "once" not in {found.labels[i] for i in found.label}


def test_a_label_on_one_text_twice_is_seen_once() -> None:
    found = made([("a",)] * 3 + [("b",)] * 3 + [("c",)] * 2, texts=np.array([0, 1, 2, 3, 4, 5, 6, 6]))
    assert found.counts["labels_seen_once"] == 1


@pytest.mark.parametrize("labels", [[("a",)] * 5, [("a",), ("b",), ("c",)], [("a",), ("a",), ("b",)]])
def test_fewer_than_two_labels_that_make_pairs_are_an_error_that_says_what_to_do(labels: list[tuple[str, ...]]) -> None:
    with pytest.raises(DataError, match=r"at least two labels with two different texts each.*add labelled texts, or"):
        made(labels)


def test_the_seed_decides() -> None:
    labels = [(str(i % 5),) for i in range(50)]
    first, same, other = (made(labels, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first.negatives, same.negatives) and np.array_equal(first.positive, same.positive)
    assert not np.array_equal(first.positive, other.positive)


def test_the_negatives_of_a_triplet_differ_where_there_are_enough() -> None:
    found = made([(str(i % 3),) for i in range(30)], negatives=4)
    assert all(len(set(row.tolist())) == 4 for row in found.negatives)


def test_no_text_without_a_common_label_is_no_negative() -> None:
    found = made([("a", "b")] * 4)
    assert (found.negatives == -1).all()
    assert found.counts["negatives_not_found"] == 200


def test_where_the_nearest_labels_share_every_text_a_negative_is_found_further_off() -> None:
    labels = [("root", "leaf")] * 5 + [("root", "twig")] * 5 + [("far",)] * 5
    near, far = [1, 0, 0, 0], [0, 1, 0, 0]
    found = made(labels, vectors=np.array([near] * 10 + [far] * 5), confusable=1)
    of_root = [found.labels[i] != "far" for i in found.label]
    assert {labels[i] for i in found.negatives[of_root, 0]} == {("far",)}


def test_a_text_of_many_labels_is_an_anchor_for_each() -> None:
    found = made([("a", "b")] + [("a",)] * 2 + [("b",)] * 2 + [("c",)] * 2)
    assert {found.labels[i] for i in found.label[found.anchor == 0]} == {"a", "b"}


def test_a_text_that_stands_there_twice_has_the_labels_of_both() -> None:
    found = made([("a",), ("b",), ("a",), ("b",), ("c",), ("c",)], texts=np.array([0, 0, 1, 2, 3, 4]))
    assert found.label_sets.tolist() == [[0, 1], [0, 1], [0, -1], [1, -1], [2, -1], [2, -1]]
    assert 1 not in found.anchor and not np.isin(found.negatives[found.anchor == 0, 0], [2, 3]).any()


def test_a_label_that_a_text_names_twice_counts_once() -> None:
    found = made([("a", "a"), ("a",), ("b",), ("b",)])
    assert (found.anchor != found.positive).all()
    assert found.label_sets.shape == (4, 1)


def test_fewer_triplets_than_labels_have_a_label_each() -> None:
    found = made([(str(i % 5),) for i in range(20)], count=3)
    assert len(set(found.label.tolist())) == 3
    assert made([(str(i % 5),) for i in range(20)], count=0).negatives.shape == (0, 1)


def test_centroids_are_read_a_block_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = [(str(i % 4),) for i in range(100)]
    vectors = np.random.default_rng(0).integers(-3, 4, (100, 4)) + np.eye(4)[np.arange(100) % 4]
    whole = made(labels, vectors=vectors)
    monkeypatch.setattr(triplets, "_VECTORS", 7)
    asked: list[int] = []

    def gather(rows: np.ndarray) -> np.ndarray:
        asked.append(len(rows))
        return vectors[rows].astype(np.float16)

    rows = np.arange(100)
    blocked = LabelTriplets.make(labels, rows, gather, rows, negatives=1, confusable=2, count=200, seed=0)
    assert max(asked) == 7 and sum(asked) == 100
    assert np.array_equal(blocked.negatives, whole.negatives)


def test_texts_that_share_a_label_are_told_from_those_that_do_not() -> None:
    sets = np.array([[0, 1], [1, -1], [2, -1], [-1, -1]])
    assert shares_label(sets, sets).tolist() == [
        [True, True, False, False],
        [True, True, False, False],
        [False, False, True, False],
        [False, False, False, False],
    ]
