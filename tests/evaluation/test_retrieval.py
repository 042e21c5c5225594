import math

import numpy as np
import pytest

from limbeck.compress import truncate
from limbeck.errors import ConfigError, DataError
from limbeck.evaluation.retrieval import evaluate_retrieval


def _ranked(order: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """One query and documents whose cosines fall in the given order."""
    angles = np.empty(len(order))
    angles[order] = np.linspace(0.1, 1.4, len(order))
    return np.array([[1.0, 0.0]]), np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _random(q: int = 40, n: int = 300, d: int = 32) -> tuple[np.ndarray, np.ndarray, list[set[int]]]:
    rng = np.random.default_rng(0)
    documents = rng.standard_normal((n, d))
    gold = rng.choice(n, q, replace=False)
    return documents[gold] + 0.9 * rng.standard_normal((q, d)), documents, [{int(g)} for g in gold]


def test_metrics_of_one_gold_document_at_rank_three_are_those_by_hand():
    queries, documents = _ranked([4, 2, 7, 0, 1, 3, 5, 6, 8, 9, 10, 11])
    scores = evaluate_retrieval(queries, documents, [{7}])
    assert scores.ndcg[0] == pytest.approx(1 / math.log2(4))
    assert scores.recall[0] == 1
    assert scores.mrr[0] == pytest.approx(1 / 3)


def test_graded_relevance_is_gained_linearly_and_normalised_by_the_best_order():
    queries, documents = _ranked(list(range(12)))
    scores = evaluate_retrieval(queries, documents, [{0: 1, 2: 3, 11: 2, 5: 0}])
    ideal = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    assert scores.ndcg[0] == pytest.approx((1 / math.log2(2) + 3 / math.log2(4)) / ideal)
    assert scores.recall[0] == pytest.approx(2 / 3)  # document 11 is found at rank 12, grade 0 is not relevant
    assert scores.mrr[0] == 1


def test_a_gold_document_below_rank_ten_counts_as_zero_in_every_metric():
    queries, documents = _ranked(list(range(12)))
    scores = evaluate_retrieval(queries, documents, [{10}])
    assert scores.means() == {"ndcg_at_10": 0.0, "recall_at_10": 0.0, "mrr_at_10": 0.0}


def test_equal_scores_rank_by_document_index():
    documents = np.ones((5, 2))
    scores = evaluate_retrieval(np.ones((1, 2)), documents, [{2}])
    assert scores.mrr[0] == pytest.approx(1 / 3)
    assert scores.hits.indices[0].tolist() == [0, 1, 2, 3, 4]


def test_scores_equal_a_brute_force_ranking_of_every_query():
    queries, documents, relevant = _random()
    scores = evaluate_retrieval(queries, documents, relevant)
    cosines = truncate(queries, 32) @ truncate(documents, 32).T
    ranks = [int((row > row[next(iter(gold))]).sum()) + 1 for row, gold in zip(cosines, relevant, strict=True)]
    expected = [1 / math.log2(rank + 1) if rank <= 10 else 0.0 for rank in ranks]
    np.testing.assert_allclose(scores.ndcg, expected, atol=1e-6)
    assert scores.means()["ndcg_at_10"] == pytest.approx(np.mean(expected), abs=1e-6)


def test_the_norm_of_a_vector_plays_no_part():
    queries, documents, relevant = _random()
    scales = np.random.default_rng(1).uniform(0.1, 10, (len(documents), 1))
    plain, scaled = (evaluate_retrieval(queries, d, relevant) for d in (documents, documents * scales))
    np.testing.assert_allclose(plain.ndcg, scaled.ndcg)


def test_one_bit_search_rescored_over_all_documents_is_the_float_search():
    queries, documents, relevant = _random()
    exact = evaluate_retrieval(queries, documents, relevant)
    bits = evaluate_retrieval(queries, documents, relevant, precision="binary")
    rescored = evaluate_retrieval(queries, documents, relevant, precision="binary", rescore=30)
    np.testing.assert_allclose(rescored.ndcg, exact.ndcg)
    assert bits.ndcg.mean() < exact.ndcg.mean()


def test_fewer_documents_than_k_are_scored():
    queries, documents = _ranked([1, 0, 2])
    assert evaluate_retrieval(queries, documents, [{0}]).mrr[0] == 0.5


@pytest.mark.parametrize(
    ("relevant", "reason"),
    [
        ([{3}], "documents 0 … 2"),
        ([{-1}], "documents 0 … 2"),
        ([set()], "query 0 has no relevant document"),
        ([{0: 0}], "query 0 has no relevant document"),
        ([{0: -1}], "whole numbers"),
        ([{0: 0.5}], "whole numbers"),
        ([{0}, {1}], "1 query vectors need as many entries"),
    ],
)
def test_relevance_that_does_not_fit_is_an_error_and_never_a_zero(relevant, reason):
    queries, documents = _ranked([0, 1, 2])
    with pytest.raises(DataError, match=reason):
        evaluate_retrieval(queries, documents, relevant)


def test_nan_vectors_and_empty_sides_are_errors_that_name_the_side():
    queries, documents = _ranked([0, 1, 2])
    poisoned = documents.copy()
    poisoned[1, 0] = np.nan
    with pytest.raises(DataError, match="1 of 3 document vectors hold NaN or infinity, the first is 1"):
        evaluate_retrieval(queries, poisoned, [{0}])
    with pytest.raises(DataError, match="no query vectors"):
        evaluate_retrieval(queries[:0], documents, [])
    with pytest.raises(DataError, match="no document vectors"):
        evaluate_retrieval(queries, documents[:0], [{0}])


def test_dims_that_do_not_fit_are_refused():
    queries, documents = _ranked([0, 1, 2])
    with pytest.raises(ConfigError, match="query vectors have 2 dims, document vectors 3"):
        evaluate_retrieval(queries, np.ones((3, 3)), [{0}])
    with pytest.raises(ConfigError, match="multiple of 8"):
        evaluate_retrieval(queries, documents, [{0}], precision="binary")
