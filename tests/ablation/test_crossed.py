"""Intervals over seeds and queries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from limbeck.ablation.crossed import crossed_mean, holm
from limbeck.errors import DataError


def test_one_value_a_seed_gives_the_t_interval() -> None:
    values = [0.1, 0.3, 0.2]
    found = crossed_mean(values)
    expected = stats.ttest_1samp(values, 0)
    low, high = expected.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.seeds, found.queries) == (3, 0)


def test_seeds_that_agree_on_every_query_leave_the_chance_of_queries() -> None:
    of_queries = np.random.default_rng(0).normal(0.1, 1, 200)
    found = crossed_mean(np.tile(of_queries, (3, 1)))
    low, high = stats.ttest_1samp(of_queries, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-6)


def test_the_mean_squares_are_those_of_a_two_way_table() -> None:
    table = np.array([[1.0, 2.0, 6.0], [2.0, 5.0, 8.0]])
    # rows 3 and 5, columns 1.5, 3.5 and 7, mean 4: M_s = 3 · 2 = 6, M_q = 2 · 7.75 = 15.5; what is left is
    # [[.5, -.5, 0], [-.5, .5, 0]], so M_r = 1 / 2
    variance = (6 + 15.5 - 0.5) / 6
    freedom = 21**2 / (6**2 / 1 + 15.5**2 / 2 + 0.5**2 / 2)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    found = crossed_mean(table)
    assert (found.mean, found.high - found.mean) == pytest.approx((4, half))


def test_about_95_in_100_intervals_hold_the_truth_when_seeds_and_queries_both_vary() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(600):
        table = 0.3 + rng.normal(0, 0.05, (3, 1)) + rng.normal(0, 0.5, (1, 60)) + rng.normal(0, 0.4, (3, 60))
        found = crossed_mean(table)
        held += found.low <= 0.3 <= found.high
    assert 0.93 <= held / 600 <= 0.995


def test_queries_alone_would_promise_too_much_where_seeds_differ() -> None:
    rng = np.random.default_rng(2)
    table = rng.normal(0, 0.2, (3, 1)) + rng.normal(0, 0.1, (3, 500))
    of_queries = stats.ttest_1samp(table.mean(axis=0), 0).confidence_interval(0.95)
    found = crossed_mean(table)
    assert found.high - found.low > 5 * (of_queries.high - of_queries.low)


def test_one_seed_has_no_interval_and_no_p_value() -> None:
    found = crossed_mean([[0.5, 0.7]])
    assert found.mean == pytest.approx(0.6)
    assert math.isnan(found.low) and math.isnan(found.high) and math.isnan(found.p_value)


def test_the_same_value_everywhere_is_certain() -> None:
    assert crossed_mean(np.full((3, 4), 0.5)).p_value == 0
    assert crossed_mean(np.zeros((3, 4))).p_value == 1


@pytest.mark.parametrize("values", [[], [[math.nan, 1.0]], 3.0])
def test_what_is_no_table_of_numbers_is_refused(values: object) -> None:
    with pytest.raises(DataError, match="values"):
        crossed_mean(values)  # type: ignore[arg-type]


def test_holm_multiplies_the_smallest_p_by_the_number_of_questions_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    adjusted = holm([math.nan, 0.02])
    assert math.isnan(adjusted[0]) and adjusted[1] == pytest.approx(0.04)
