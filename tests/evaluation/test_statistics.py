from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from scipy import stats

from limbeck.errors import ConfigError, DataError
from limbeck.evaluation import statistics
from limbeck.evaluation.results import ModelResult, TaskResult
from limbeck.evaluation.statistics import averages, mean_interval, paired_bootstrap


def model(scores: dict[str, tuple[str, float]]) -> ModelResult:
    """scores: task → (type, score)."""
    tasks = [TaskResult(task=n, type=t, metric="m", score=s) for n, (t, s) in scores.items()]
    return ModelResult(model="m", identity="m", kind="bundle", dim=8, precision="float32", tasks=tasks)


def queries(values: np.ndarray) -> dict[str, float]:
    return {f"q{i}": float(value) for i, value in enumerate(values)}


# ------------------------------------------------------------------------------------ over seeds


def test_the_interval_of_three_values_is_that_by_hand():
    found = mean_interval([0.6, 0.7, 0.8])
    # t(0.975, 2) = 4.3027, standard deviation 0.1
    assert (found.mean, found.n) == (pytest.approx(0.7), 3)
    assert found.high - found.mean == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("n", [2, 5, 40])
def test_the_interval_is_that_of_scipy(n, level):
    values = np.random.default_rng(n).normal(0.6, 0.05, n)
    expected = stats.t.interval(level, n - 1, loc=values.mean(), scale=stats.sem(values))
    found = mean_interval(values.tolist(), level)
    assert (found.low, found.high) == pytest.approx(expected)


def test_one_value_has_a_mean_and_no_interval():
    found = mean_interval([0.5])
    assert (found.mean, found.n) == (0.5, 1)
    assert math.isnan(found.low) and math.isnan(found.high)


# -------------------------------------------------------------------------------------- averages


def test_averages_are_those_of_mteb():
    from mteb.benchmarks._create_table import _create_summary_table

    scores = {
        "STSBenchmark": ("STS", {"default": 0.82}),
        "SciFact": ("Retrieval", {"default": 0.64}),
        "NFCorpus": ("Retrieval", {"default": 0.31}),
        "Banking77Classification": ("Classification", {"default": 0.79}),
        "STS17": ("STS", {"en-en": 0.87, "ko-ko": 0.43, "ar-ar": 0.21}),
    }
    known = "sentence-transformers/all-MiniLM-L6-v2"  # mteb leaves out models that it has no description of
    rows = [
        {"model_name": known, "model_revision": "1", "task_name": n, "split": "test", "subset": s, "score": v}
        for n, (_, subsets) in scores.items()
        for s, v in subsets.items()
    ]
    expected = _create_summary_table(pl.DataFrame(rows)).df.row(0, named=True)
    found = averages(model({n: (t, float(np.mean(list(subsets.values())))) for n, (t, subsets) in scores.items()}))
    assert found.mean_task == pytest.approx(expected["Mean (Task)"])
    assert found.mean_type == pytest.approx(expected["Mean (TaskType)"])
    assert found.by_type == pytest.approx({t: expected[t] for t in ("STS", "Retrieval", "Classification")})


def test_a_type_weighs_the_same_however_many_tasks_it_has():
    found = averages(model({"a": ("STS", 0.9), "b": ("STS", 0.7), "c": ("STS", 0.8), "d": ("Retrieval", 0.2)}))
    assert found.by_type == pytest.approx({"STS": 0.8, "Retrieval": 0.2})
    assert found.mean_task == pytest.approx(2.6 / 4)
    assert found.mean_type == pytest.approx(0.5)


def test_a_model_without_scores_has_no_average():
    with pytest.raises(DataError, match="evaluate it on a task first"):
        averages(model({}))


# ----------------------------------------------------------------------------- paired bootstrap


@pytest.mark.parametrize(("n", "shift"), [(40, 0.05), (300, 0.02), (300, 0.0)])
def test_the_interval_of_the_difference_is_that_of_scipys_bootstrap(n, shift):
    rng = np.random.default_rng(n)
    b = rng.beta(2, 2, n)
    a = b + rng.normal(shift, 0.2, n)
    found = paired_bootstrap(queries(a), queries(b), rounds=20_000)
    expected = stats.bootstrap(
        (a, b), lambda x, y: np.mean(x - y), paired=True, n_resamples=20_000, method="percentile"
    )
    spread = expected.standard_error
    assert found.difference == pytest.approx((a - b).mean())
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.06 * spread)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.06 * spread)


def test_the_p_value_is_near_that_of_a_t_test_where_many_queries_differ_little():
    rng = np.random.default_rng(3)
    b = rng.uniform(size=2000)
    a = b + rng.normal(0.01, 0.2, 2000)
    assert paired_bootstrap(queries(a), queries(b)).p_value == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=0.01)


def test_of_two_equal_models_ten_in_a_hundred_differ_at_ten_percent():
    p = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        a, b = rng.uniform(size=(2, 80))
        p.append(paired_bootstrap(queries(a), queries(b), rounds=500).p_value)
    assert abs(np.mean(np.array(p) < 0.1) - 0.1) < 3 * math.sqrt(0.09 / 400)


def test_the_interval_leaves_out_zero_exactly_where_the_p_value_says_so():
    verdicts = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        found = paired_bootstrap(queries(rng.normal(0.25, 1, 60)), queries(np.zeros(60)), rounds=999, level=0.9)
        if abs(found.p_value - 0.1) > 0.004:  # within one round of the limit, quantiles are interpolated
            verdicts.add((found.low > 0 or found.high < 0, found.p_value < 0.1))
    assert verdicts == {(True, True), (False, False)}


def test_wins_and_ties_are_counted_and_the_other_way_round_is_the_mirror():
    a, b = {"x": 1.0, "y": 0.5, "z": 0.2, "w": 0.4}, {"x": 0.5, "y": 0.5, "z": 0.3, "w": 0.1}
    found, mirrored = paired_bootstrap(a, b), paired_bootstrap(b, a)
    assert (found.n, found.wins, found.ties) == (4, 2, 1)
    assert found.difference == pytest.approx(0.7 / 4)
    assert (mirrored.difference, mirrored.wins, mirrored.p_value) == (-found.difference, 1, found.p_value)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))


def test_equal_scores_do_not_differ_at_all():
    found = paired_bootstrap({"x": 0.5, "y": 0.1}, {"x": 0.5, "y": 0.1})
    assert (found.difference, found.low, found.high, found.p_value, found.ties) == (0, 0, 0, 1, 2)


def test_a_model_that_wins_every_query_has_the_smallest_p_value_that_the_rounds_allow():
    found = paired_bootstrap({"x": 0.5, "y": 0.4}, {"x": 0.2, "y": 0.1}, rounds=199)
    assert found.p_value == pytest.approx(2 / 200)
    assert found.low == pytest.approx(0.3)


def test_the_answer_depends_on_the_seed_alone_not_on_order_or_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = queries(rng.uniform(size=50)), queries(rng.uniform(size=50))
    found = paired_bootstrap(a, b, rounds=300)
    assert paired_bootstrap(dict(reversed(a.items())), b, rounds=300) == found
    assert paired_bootstrap(a, b, rounds=300, seed=1) != found
    monkeypatch.setattr(statistics, "_BLOCK_DRAWS", 70)
    assert paired_bootstrap(a, b, rounds=300) == found


def test_different_queries_are_refused_unless_told_otherwise():
    a, b = {"x": 0.5, "y": 0.1, "z": 0.3}, {"x": 0.2, "y": 0.3, "v": 0.9}
    with pytest.raises(DataError, match="2 of 4 queries have a score on one side only, the first is 'v'"):
        paired_bootstrap(a, b)
    found = paired_bootstrap(a, b, common_only=True)
    assert (found.n, found.difference) == (2, pytest.approx(0.05))
    with pytest.raises(DataError, match="no query that both sides have"):
        paired_bootstrap({"x": 0.5}, {"y": 0.5}, common_only=True)
    with pytest.raises(DataError, match="no query that both sides have"):
        paired_bootstrap({}, {})


def test_numbers_that_give_no_statistic_are_refused():
    with pytest.raises(DataError, match="1 of 2 values are no finite numbers"):
        mean_interval([0.5, math.nan])
    with pytest.raises(DataError, match="no values"):
        mean_interval([])
    with pytest.raises(DataError, match="no finite numbers"):
        paired_bootstrap({"x": math.inf}, {"x": 0.0})
    with pytest.raises(ConfigError, match=r"got 95"):
        mean_interval([0.1, 0.2], level=95)
    with pytest.raises(ConfigError, match="at least 1 round, got 0"):
        paired_bootstrap({"x": 0.5}, {"x": 0.0}, rounds=0)
