"""From scores to a verdict."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from limbeck.ablation.answers import answers_of, status_of, uneven_tokens, verdict
from limbeck.ablation.experiments import BIT_LOSS, EXPERIMENTS, HELD_OUT, RANK, Arm, Contrast, Experiment
from limbeck.ablation.results import ArmScores

CLAIM = Experiment(
    name="tiny",
    question="Is a better than b?",
    claim="a is better than b",
    recipe="demo",
    arms=(Arm("a"), Arm("b")),
    contrasts=(Contrast("a", "b"),),
    fixed=(),
)


def arm(name: str, values: list[float], metric: str = HELD_OUT, **more: object) -> list[ArmScores]:
    about = {"key": "", "steps": 1, "tokens": 100, "seconds": 1.0} | more
    return [ArmScores(arm=name, seed=i, scores={metric: v}, **about) for i, v in enumerate(values)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("a", "b", "holds", "status"),
    [
        ([0.60, 0.61, 0.62], [0.50, 0.51, 0.52], "yes", "reproduced"),
        ([0.50, 0.51, 0.52], [0.60, 0.61, 0.62], "no", "not reproduced"),
        ([0.500, 0.510, 0.520], [0.500, 0.511, 0.520], "no", "not reproduced"),  # surely no difference worth having
        ([0.50, 0.60, 0.70], [0.60, 0.50, 0.65], "open", "not decidable at this scale"),
        ([0.60], [0.50], "open", "not decidable at this scale"),  # one seed confirms nothing
    ],
)
def test_the_interval_decides(a: list[float], b: list[float], holds: str, status: str) -> None:
    answers = answers_of(CLAIM.contrasts, {"a": arm("a", a), "b": arm("b", b)})
    assert [found.holds for found in answers] == [holds]
    assert status_of(CLAIM, answers) == status
    assert status in verdict(CLAIM, status_of(CLAIM, answers), answers)


def test_a_question_that_the_paper_leaves_open_is_answered_and_not_reproduced() -> None:
    answers = answers_of(CLAIM.contrasts, {"a": arm("a", [0.6, 0.6]), "b": arm("b", [0.5, 0.5])})
    found = replace(CLAIM, open_question=True)
    assert status_of(found, answers) == "answered"
    assert verdict(found, "answered", answers).startswith("Is a better than b? (“a” against “b”, held-out: +0.100")


def test_a_question_beside_the_claim_is_answered_and_decides_nothing() -> None:
    claim = replace(CLAIM, contrasts=(Contrast("a", "b"), Contrast("b", "a", claimed=False)))
    answers = answers_of(claim.contrasts, {"a": arm("a", [0.60, 0.61, 0.62]), "b": arm("b", [0.50, 0.51, 0.52])})
    assert [found.holds for found in answers] == ["yes", "no"]
    status = status_of(claim, answers)
    assert status == "reproduced"
    assert "“b” against “a”" not in verdict(claim, status, answers)


def test_queries_are_compared_one_by_one_where_both_arms_have_them() -> None:
    better = [0.1, 0.5, 0.9, 0.4]
    a = arm("a", [0.575, 0.575], by_query={HELD_OUT: [v + 0.1 for v in better]})
    b = arm("b", [0.475, 0.475], by_query={HELD_OUT: better})
    (found,) = answers_of(CLAIM.contrasts, {"a": a, "b": b})
    assert (found.estimate, found.low, found.queries) == pytest.approx((0.1, 0.1, 4))


def test_a_reduction_is_a_share_of_what_there_was() -> None:
    claim = Contrast("a", "b", BIT_LOSS, kind="reduction", least=0.5)
    scores = {"a": arm("a", [0.02, 0.021, 0.019], BIT_LOSS), "b": arm("b", [0.1, 0.1, 0.1], BIT_LOSS)}
    (found,) = answers_of([claim], scores)
    assert found.estimate == pytest.approx(0.8)
    assert found.holds == "yes"
    (other,) = answers_of([replace(claim, least=0.9)], scores)
    assert other.holds == "no"


def test_a_difference_in_rank_has_no_least_size() -> None:
    scores = {"a": arm("a", [1.0020, 1.0021, 1.0019], RANK), "b": arm("b", [1.0, 1.0, 1.0], RANK)}
    (found,) = answers_of([Contrast("b", "a", RANK)], scores)
    assert found.holds == "no"


def test_a_score_that_was_not_made_leaves_the_question_open() -> None:
    answers = answers_of(CLAIM.contrasts, {"a": arm("a", [0.6], "other"), "b": arm("b", [0.5])})
    assert math.isnan(answers[0].estimate)
    assert "not measured" in verdict(CLAIM, status_of(CLAIM, answers), answers)


def test_arms_that_saw_more_tokens_are_told_of() -> None:
    scores = {"a": arm("a", [0.5, 0.5]), "b": arm("b", [0.5, 0.5], tokens=102), "c": arm("c", [0.5, 0.5], tokens=150)}
    assert uneven_tokens(scores) == ["“c” has 150.0% of the tokens of “a”"]


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=lambda e: e.name)
def test_every_contrast_names_arms_of_its_experiment(experiment: Experiment) -> None:
    names = [a.name for a in experiment.arms]
    assert len(set(names)) == len(names)
    assert {c.arm for c in experiment.contrasts} | {c.against for c in experiment.contrasts} <= set(names)
    assert {a.as_many_tokens_as for a in experiment.arms if a.as_many_tokens_as} <= set(names)
