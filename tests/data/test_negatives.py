"""Hard negatives: near for the teacher, none of them the answer."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.config import Mining
from limbeck.data import negatives
from limbeck.data.negatives import mine
from limbeck.errors import DataError


def unit(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def parts(vectors: np.ndarray) -> np.ndarray:
    """Unit vectors in whole 4,000ths, so that their products are exact in integers."""
    return np.rint(unit(vectors) * 4000).astype(np.int64)


def by_hand(
    queries: np.ndarray, documents: np.ndarray, answers: list[np.ndarray], texts: np.ndarray, wanted: Mining
) -> list[list[int]]:
    """The same, one query at a time."""
    found = []
    for query, own in zip(parts(queries), answers, strict=True):
        cosines = parts(documents) @ query
        first = {int(t): int(np.flatnonzero(texts == t)[0]) for t in texts}
        own_texts = {int(texts[a]) for a in own}
        limit = min(cosines[first[t]] for t in own_texts) - wanted.margin * 4000**2
        ranked = sorted((d for t, d in first.items() if t not in own_texts), key=lambda d: (-cosines[d], d))
        places = ranked[wanted.ranks[0] - 1 : wanted.ranks[1]]
        found.append([d for d in places if cosines[d] <= limit][: wanted.negatives])
    return found


def test_the_nearest_documents_that_lie_a_margin_behind_the_answer_are_taken() -> None:
    angles = np.radians([0, 10, 20, 40, 60, 80])
    documents = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    query = np.array([[1.0, 0.0]])
    wanted = Mining(negatives=2, ranks=(1, 5), margin=0.1)  # cos 10° − 0.1 = 0.885, between 20° and 40°
    found = mine(
        np.array([6]),
        np.arange(6),
        lambda r: np.concatenate([documents, query])[r],
        [np.array([1])],
        np.arange(6),
        wanted,
    )
    assert found.indices.tolist() == [[3, 4]]
    assert found.counts == {
        "with_all_negatives": 1,
        "with_some_negatives": 0,
        "without_negatives": 0,
        "too_near": 2,
        "same_text_as_answer": 0,
    }


def test_places_are_counted_without_the_answer() -> None:
    documents = unit(np.array([[1, 0.0], [1, 0.1], [1, 0.2], [1, 0.3], [1, 0.4]]))
    rows = np.concatenate([documents, [[1.0, 0.0]]])
    wanted = Mining(negatives=1, ranks=(2, 3), margin=0.0)
    found = mine(np.array([5]), np.arange(5), lambda r: rows[r], [np.array([0])], np.arange(5), wanted)
    assert found.indices.tolist() == [[2]]  # 1 is in the first place, which is not looked at


@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(1, 12), st.integers(1, 4), st.floats(0, 0.5))
@settings(max_examples=60, deadline=None)
def test_it_finds_what_a_search_one_query_at_a_time_finds(
    seed: int, documents: int, queries: int, count: int, margin: float
) -> None:
    draw = np.random.default_rng(seed)
    store = draw.standard_normal((documents + queries, 6)).astype(np.float16)
    texts = draw.integers(0, max(2, documents // 2), documents)  # some documents are the same text
    store[:documents] = store[texts // (1 + seed % 2)]  # and some texts have the same vector
    answers = [draw.integers(0, documents, draw.integers(1, 4)) for _ in range(queries)]
    wanted = Mining(negatives=count, ranks=(1 + seed % 3, 20), margin=margin)
    rows = np.arange(documents + queries)
    found = mine(rows[documents:], rows[:documents], lambda r: store[r], answers, texts, wanted)
    expected = by_hand(store[documents:], store[:documents], answers, texts, wanted)
    assert [[int(i) for i in row if i >= 0] for row in found.indices] == expected
    numbers = [found.counts[c] for c in ("with_all_negatives", "with_some_negatives", "without_negatives")]
    lengths = [len(e) for e in expected]
    assert numbers == [lengths.count(count), sum(0 < n < count for n in lengths), lengths.count(0)]
    for row, own in zip(found.indices, answers, strict=True):
        assert not {int(texts[i]) for i in row if i >= 0} & {int(texts[a]) for a in own}


@pytest.mark.parametrize(("query_block", "document_block"), [(1, 5), (3, 1), (7, 17), (13, 64)])
def test_the_size_of_blocks_changes_nothing_even_among_equals(
    monkeypatch: pytest.MonkeyPatch, query_block: int, document_block: int
) -> None:
    draw = np.random.default_rng(3)
    few = draw.standard_normal((60, 100))
    # 400 texts of 60 vectors: a last bit that depends on the block would change the order, or who meets the margin
    store = np.concatenate([few[draw.integers(0, 60, 400)], draw.standard_normal((50, 100))]).astype(np.float16)
    answers = [draw.integers(0, 400, 2) for _ in range(50)]

    def found() -> np.ndarray:
        rows = np.arange(450)
        return mine(rows[400:], rows[:400], lambda r: store[r], answers, rows[:400], Mining(margin=0.0)).indices

    whole = found()
    monkeypatch.setattr("limbeck.nearest.DOCUMENT_BLOCK", document_block)
    monkeypatch.setattr(negatives, "_QUERY_BLOCK", query_block)
    assert np.array_equal(found(), whole)


@pytest.mark.parametrize("dims", [32, 2560])
def test_whole_parts_are_as_good_as_cosines(dims: int) -> None:
    draw = np.random.default_rng(4)
    store = draw.standard_normal((220, dims)).astype(np.float16)
    cosines = unit(store[200:]) @ unit(store[:200]).T
    rows, answers = np.arange(220), [np.array([q]) for q in range(20)]
    wanted = Mining(negatives=4, ranks=(1, 200), margin=0.0)
    found = mine(rows[200:], rows[:200], lambda r: store[r], answers, rows[:200], wanted).indices
    for row, query, own in zip(found, cosines, answers, strict=True):
        limit, taken = query[own[0]], row[row >= 0]
        assert (query[taken] < limit + 1e-3).all()  # the limit and the order hold, but for cosines that nearly tie
        reached = query[taken].min() if len(taken) == 4 else -1
        assert np.isin(np.flatnonzero((query > reached + 1e-3) & (query < limit - 1e-3)), taken).all()


def test_vectors_are_read_a_block_at_a_time() -> None:
    draw = np.random.default_rng(2)
    store = draw.standard_normal((1000, 32)).astype(np.float16)
    asked: list[int] = []

    def gather(rows: np.ndarray) -> np.ndarray:
        asked.append(len(rows))
        return store[rows % 1000]

    documents, queries = 200_000, 100
    rows = np.arange(documents)
    answers = [np.arange(q, documents, 500) for q in range(queries)]  # 40,000 in all
    tracemalloc.start()
    mine(rows[:queries], rows, gather, answers, rows, Mining())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(asked) <= 8192
    assert sum(asked) == documents + queries  # each once
    assert peak < 40e6  # all scores would be 80 MB


def test_documents_of_the_answers_text_are_passed_over_and_counted() -> None:
    store = np.array([[1, 0], [1, 0], [1, 0.5], [1, 0.5], [0, 1]], dtype=np.float16)
    texts = np.array([7, 7, 8, 8, 9])  # 1 repeats 0, 3 repeats 2
    wanted = Mining(negatives=2, ranks=(1, 4), margin=0.0)
    found = mine(np.array([0]), np.arange(5), lambda r: store[r], [np.array([1])], texts, wanted)
    assert found.indices.tolist() == [[2, 4]]
    assert found.counts["same_text_as_answer"] == 1


def test_the_furthest_answer_sets_the_limit() -> None:
    angles = np.radians([0, 10, 20, 40, 60])
    store = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    wanted = Mining(negatives=2, ranks=(1, 5), margin=0.0)
    found = mine(np.array([0]), np.arange(1, 5), lambda r: store[r], [np.array([0, 2])], np.arange(4), wanted)
    assert found.indices.tolist() == [[3, -1]]  # not the one at 20°, which is nearer than the answer at 40°


def test_more_places_than_documents_gives_what_there_is() -> None:
    store = np.eye(3, dtype=np.float16)
    found = mine(np.array([0]), np.arange(3), lambda r: store[r], [np.array([0])], np.arange(3), Mining(ranks=(1, 100)))
    assert found.indices.tolist() == [[1, 2, -1, -1]]
    assert found.counts["with_some_negatives"] == 1


def test_a_query_without_an_answer_is_an_error() -> None:
    store = np.eye(3, dtype=np.float16)
    with pytest.raises(DataError, match="every query needs the documents that answer it"):
        mine(np.array([0]), np.arange(3), lambda r: store[r], [np.array([], np.int64)], np.arange(3), Mining())
