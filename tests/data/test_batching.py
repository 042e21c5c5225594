"""Steps and micro-batches: who is drawn, how often, and how it is cut."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.data.batching import SourceRows, StepPlan, micro_batches

LENGTHS = st.lists(st.integers(2, 200), min_size=1, max_size=60).map(np.array)


def texts(lengths: np.ndarray, *, name: str = "texts", weight: float = 1.0) -> SourceRows:
    return SourceRows(name, weight, np.arange(len(lengths)).reshape(-1, 1), lengths)


def pairs(lengths: np.ndarray, *, name: str = "pairs", weight: float = 1.0) -> SourceRows:
    """Queries first, then documents: row r holds texts r and R + r."""
    return SourceRows(name, weight, np.arange(len(lengths)).reshape(2, -1).T, lengths)


def realistic(count: int, seed: int = 0) -> np.ndarray:
    """Tokens of texts as python-docs has them: most are short, a few reach the cut."""
    return np.clip(np.random.default_rng(seed).lognormal(3.3, 0.9, count).astype(int), 3, 128)


# --------------------------------------------------------------------------------------------- steps


@given(LENGTHS, st.integers(1, 400), st.integers(0, 5))
def test_every_row_is_drawn_once_in_a_pass(lengths: np.ndarray, budget: int, seed: int) -> None:
    plan = StepPlan([texts(lengths)], tokens_per_step=budget, seed=seed)
    drawn: list[int] = []
    while len(drawn) < 3 * len(lengths):
        drawn += plan.next().texts.tolist()
    for turn in range(3):
        assert sorted(drawn[turn * len(lengths) : (turn + 1) * len(lengths)]) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 400))
def test_a_step_ends_with_the_row_that_fills_its_budget(lengths: np.ndarray, budget: int) -> None:
    plan = StepPlan([texts(lengths)], tokens_per_step=budget, seed=0)
    for _ in range(5):
        step = plan.next()
        assert step.tokens == lengths[step.texts].sum() >= budget
        assert step.tokens - lengths[step.texts[-1]] < budget


def test_both_sides_of_a_pair_are_in_one_step() -> None:
    plan = StepPlan([pairs(realistic(80))], tokens_per_step=300, seed=0)
    for _ in range(20):
        drawn = plan.next().texts
        queries, documents = drawn[0::2], drawn[1::2]
        assert (documents == queries + 40).all()


def test_passes_differ_in_order_and_seeds_do_too() -> None:
    def first_pass(plan: StepPlan) -> list[int]:
        return plan.next().texts.tolist()

    rows = texts(np.full(50, 4))
    plan = StepPlan([rows], tokens_per_step=200, seed=0)
    first, second = first_pass(plan), first_pass(plan)
    other = first_pass(StepPlan([rows], tokens_per_step=200, seed=1))
    assert sorted(first) == sorted(second) == sorted(other) == list(range(50))
    assert first != second and first != other


def test_a_step_holds_one_source_and_weights_give_the_share_of_tokens() -> None:
    a, b, c = realistic(900, 1), realistic(300, 2), realistic(600, 3)
    sources = [texts(a, name="a"), texts(b, name="b", weight=3.0), pairs(c, name="c", weight=0.5)]
    plan = StepPlan(sources, tokens_per_step=500, seed=0)
    tokens = np.zeros(3)
    for _ in range(3000):
        step = plan.next()
        assert step.texts.max() < len(sources[step.source].lengths)
        tokens[step.source] += step.tokens
    weighted = np.array([a.sum(), 3 * b.sum(), 0.5 * c.sum()])
    np.testing.assert_allclose(tokens / tokens.sum(), weighted / weighted.sum(), atol=0.03)


@given(st.integers(0, 30), st.integers(0, 3))
def test_a_plan_put_back_at_its_position_goes_on_identically(steps: int, seed: int) -> None:
    sources = [texts(realistic(23), name="a"), pairs(realistic(30), name="b", weight=2.0)]
    whole = StepPlan(sources, tokens_per_step=200, seed=seed)
    for _ in range(steps):
        whole.next()
    position = json.loads(json.dumps(whole.state()))  # as a checkpoint keeps it
    resumed = StepPlan(sources, tokens_per_step=200, seed=seed)
    resumed.restore(position)
    for _ in range(10):
        expected, found = whole.next(), resumed.next()
        assert (expected.source, expected.tokens) == (found.source, found.tokens)
        np.testing.assert_array_equal(expected.texts, found.texts)


def test_a_position_of_other_sources_is_refused() -> None:
    plan = StepPlan([texts(realistic(5))], tokens_per_step=10, seed=0)
    with pytest.raises(ValueError, match="for 2 sources, the run has 1"):
        plan.restore({"step": 0, "cursors": [0, 0]})


# --------------------------------------------------------------------------------------------- passes


def padded(lengths: np.ndarray) -> int:
    return len(lengths) * -(-int(lengths.max()) // 8) * 8


@given(LENGTHS, st.integers(8, 2000), st.integers(1, 4))
def test_forward_passes_hold_every_text_once_within_the_budget_of_padded_tokens(
    lengths: np.ndarray, budget: int, processes: int
) -> None:
    cuts = micro_batches(lengths, budget, processes=processes)
    assert sorted(np.concatenate(cuts).tolist()) == list(range(len(lengths)))
    assert all(len(cut) == 1 or padded(lengths[cut]) <= budget for cut in cuts)
    assert (np.diff([lengths[cut].max() for cut in cuts]) >= 0).all()


@given(LENGTHS, st.integers(8, 2000), st.integers(1, 6))
def test_all_processes_get_as_many_passes_where_there_are_texts_enough(
    lengths: np.ndarray, budget: int, processes: int
) -> None:
    cuts = micro_batches(lengths, budget, processes=processes)
    assert len(cuts) % processes == 0 or len(cuts) == len(lengths)


def test_hardly_a_token_is_padding_on_lengths_as_texts_have_them() -> None:
    lengths = realistic(400)
    cuts = micro_batches(lengths, 4096)
    computed = sum(padded(lengths[cut]) for cut in cuts)
    assert computed / lengths.sum() < 1.35
    assert padded(lengths) / lengths.sum() > 3  # what a batch padded to its longest text would cost


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.integers(8, 200), st.integers(0, 64))
def test_no_other_cut_of_the_sorted_texts_costs_less(lengths: list[int], budget: int, overhead: int) -> None:
    def cost(cuts: list[np.ndarray]) -> int:
        return sum(padded(cut) + overhead for cut in cuts)

    ascending = np.sort(np.array(lengths))
    every_cut = (
        np.split(ascending, places)
        for count in range(len(lengths))
        for places in itertools.combinations(range(1, len(lengths)), count)
    )
    allowed = [cuts for cuts in every_cut if all(len(c) == 1 or padded(c) <= budget for c in cuts)]
    found = micro_batches(np.array(lengths), budget, overhead=overhead)
    assert cost([np.array(lengths)[cut] for cut in found]) == min(map(cost, allowed))


def test_a_text_without_tokens_is_still_in_a_pass() -> None:
    assert [cut.tolist() for cut in micro_batches(np.array([0, 0]), 4096)] == [[0, 1]]
