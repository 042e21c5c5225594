from __future__ import annotations

import numpy as np
import pytest
from sentence_transformers.util import quantize_embeddings, semantic_search
from sklearn.metrics import ndcg_score

from limbeck import nearest
from limbeck.compress import from_bits, to_bits, truncate
from limbeck.errors import ConfigError, DataError
from limbeck.evaluation.compression import FLOAT, STORAGES, Storage, compression_curve_of
from limbeck.evaluation.retrieval import evaluate_retrieval


def random_task(q: int = 60, n: int = 400, d: int = 64) -> tuple[np.ndarray, np.ndarray, list[set[int]]]:
    rng = np.random.default_rng(0)
    documents = rng.standard_normal((n, d)) * np.linspace(2, 0.2, d)  # the first dims tell most, as after Matryoshka
    gold = rng.choice(n, q, replace=False)
    return documents[gold] + 0.9 * rng.standard_normal((q, d)), documents, [{int(g)} for g in gold]


def ndcg_of(scores: np.ndarray, relevant: list[set[int]]) -> float:
    """Mean nDCG@10 of a full matrix of scores, by scikit-learn."""
    truth = np.zeros(scores.shape)
    for row, gold in enumerate(relevant):
        truth[row, list(gold)] = 1
    return float(ndcg_score(truth, scores, k=10))


def test_every_point_is_that_of_scikit_learn_on_the_full_matrix():
    queries, documents, relevant = random_task()
    points = compression_curve_of(queries, documents, relevant, [16, 32], oversampling=400)
    assert [(p.precision, p.rescored_by, p.dim) for p in points] == [(*s, d) for s in STORAGES for d in (16, 32, 64)]
    full = ndcg_of(truncate(queries, 64) @ truncate(documents, 64).T, relevant)
    for point in points:
        q, d = truncate(queries, point.dim), truncate(documents, point.dim)
        ranges = np.stack([d.min(axis=0), d.max(axis=0)])
        steps = (ranges[1] - ranges[0]) / 255
        int8 = np.rint((d - ranges[0]) / steps) * steps + ranges[0]
        expected = {
            ("float32", None): q @ d.T,
            ("int8", None): q @ int8.T,
            # equal distances rank by index, which a full matrix must be told
            ("binary", None): from_bits(to_bits(q)) @ from_bits(to_bits(d)).T - np.arange(len(d)) / 1e4,
            ("binary", "int8"): q @ int8.T,  # all are rescored
            ("binary", "float32"): q @ d.T,
        }[point.precision, point.rescored_by]
        assert point.score == pytest.approx(ndcg_of(expected, relevant), abs=1e-6)
        assert point.relative_to_full == pytest.approx(point.score / full)


def test_codes_of_the_corpus_find_what_those_of_sentence_transformers_find():
    queries, documents, _ = random_task()
    q, d = truncate(queries, 64), truncate(documents, 64)
    ranges = np.stack([d.min(axis=0), d.max(axis=0)])
    theirs = np.asarray(quantize_embeddings(d, "int8", ranges=ranges)).astype(np.float32)
    steps = (ranges[1] - ranges[0]) / 255
    found = semantic_search(q * steps, theirs, top_k=10, score_function=lambda a, b: a @ b.T)
    seen: list[np.ndarray] = []
    compression_curve_of(
        queries,
        documents,
        [{0}] * 60,
        [64],
        storages=[Storage("int8")],
        score=lambda hits, *_: seen.append(hits) or 1.0,
    )
    same = [len({h["corpus_id"] for h in a} & set(b)) for a, b in zip(found, seen[0].indices.tolist(), strict=True)]
    assert np.mean(same) >= 9.5


def test_a_rescored_search_lies_between_the_bits_and_what_rescores_them():
    queries, documents, relevant = random_task(q=300, n=2000)
    points = compression_curve_of(queries, documents, relevant, [64], oversampling=2)
    score = {(p.precision, p.rescored_by): p.score for p in points}
    assert score["binary", None] < score["binary", "float32"] < score["float32", None]
    assert score["binary", None] < score["binary", "int8"]
    assert score["int8", None] == pytest.approx(score["float32", None], abs=0.01)


def test_bytes_count_what_is_searched_and_what_rescoring_reads():
    queries, documents, relevant = random_task()
    points = compression_curve_of(queries, documents, relevant, [12, 32])
    assert {(p.precision, p.rescored_by, p.dim): p.bytes for p in points if p.dim < 64} == {
        ("float32", None, 12): 48,
        ("int8", None, 12): 12,
        ("float32", None, 32): 128,
        ("int8", None, 32): 32,
        ("binary", None, 32): 4,
        ("binary", "int8", 32): 36,
        ("binary", "float32", 32): 132,
    }


def test_a_constant_dimension_changes_no_ranking():
    queries, documents, relevant = random_task()
    q, d = truncate(queries, 64), truncate(documents, 64)
    padded_q, padded_d = (np.concatenate([v, np.full((len(v), 8), 0.1)], axis=1) for v in (q, d))
    plain = compression_curve_of(q, d, relevant, [64])
    padded = [p for p in compression_curve_of(padded_q, padded_d, relevant, [72]) if p.dim == 72]
    for one, other in zip(plain, padded, strict=True):
        assert other.score == pytest.approx(one.score, abs=1e-6)


def test_relative_scores_refer_to_full_float_vectors_even_where_these_are_not_asked_for():
    queries, documents, relevant = random_task()
    (point,) = compression_curve_of(queries, documents, relevant, [64], storages=[Storage("binary")])
    full = evaluate_retrieval(queries, documents, relevant).ndcg.mean()
    assert point.relative_to_full == pytest.approx(point.score / full)


def test_another_score_and_k_may_be_passed():
    queries, documents, relevant = random_task()
    asked = []

    def recall(hits: nearest.Hits, grades: object, k: int) -> float:
        asked.append((hits.indices.shape[1], k))
        return float(
            np.mean([bool(gold & set(row)) for gold, row in zip(relevant, hits.indices.tolist(), strict=True)])
        )

    (point,) = compression_curve_of(queries, documents, relevant, [64], score=recall, k=3, storages=[FLOAT])
    assert asked == [(3, 3)]
    assert point.score == pytest.approx(evaluate_retrieval(queries, documents, relevant, k=3).recall.mean())


def test_fewer_documents_than_are_found_are_all_found():
    queries, documents, relevant = np.eye(8)[:1], np.eye(8)[:3], [{0}]
    assert [p.score for p in compression_curve_of(queries, documents, relevant, [8])] == [1.0] * 5


def test_vectors_and_arguments_that_do_not_fit_are_errors():
    queries, documents, relevant = random_task()
    with pytest.raises(ConfigError, match=r"1 … 64, the width of the vectors, got \[65\]"):
        compression_curve_of(queries, documents, relevant, [65])
    with pytest.raises(ConfigError, match="oversampling must be at least 1, got 0"):
        compression_curve_of(queries, documents, relevant, [64], oversampling=0)
    poisoned = documents.copy()
    poisoned[7, 3] = np.nan
    with pytest.raises(DataError, match="1 of 400 document vectors hold NaN or infinity, the first is 7"):
        compression_curve_of(queries, poisoned, relevant, [64])
    with pytest.raises(DataError, match="query 0 has no relevant document"):
        compression_curve_of(queries, documents, [set(), *relevant[1:]], [64])
