"""What scores say to a claim: contrasts with intervals, and the verdict in one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from limbeck.ablation import wording
from limbeck.ablation.crossed import Estimate, crossed_mean, holm
from limbeck.ablation.experiments import RANK, Contrast, Experiment
from limbeck.ablation.results import Answer, ArmScores, Status
from limbeck.evaluation import formatting as fmt

WORTH = 0.005  # of a score: a difference whose interval stays below this is none that anyone would train for
UNEVEN = 0.03  # arms whose tokens differ by more than this share are told of

Scores = Mapping[str, Sequence[ArmScores]]
"""Arm → its scores, seed by seed; all arms in the same order of seeds."""


def answers_of(contrasts: Sequence[Contrast], scores: Scores) -> list[Answer]:
    """Every contrast, estimated; p-values are adjusted for all of them together (Holm)."""
    estimated = [(contrast, _estimate(contrast, scores)) for contrast in contrasts]
    adjusted = holm([estimate.p_value for _, estimate in estimated])
    return [_answer(contrast, estimate, p) for (contrast, estimate), p in zip(estimated, adjusted, strict=True)]


def status_of(experiment: Experiment, answers: Sequence[Answer]) -> Status:
    """A claim is reproduced when all that it says holds, and is not when any of it does not.

    All must hold, each by its own interval, so the chance of a false "reproduced" is no larger than that of one alone.
    """
    answers = [a for a in answers if a.claimed]
    if experiment.open_question and not all(math.isnan(a.low) for a in answers):
        return "answered"
    if any(a.holds == "no" for a in answers):
        return "not reproduced"
    return "reproduced" if all(a.holds == "yes" for a in answers) else "not decidable at this scale"


def verdict(experiment: Experiment, status: Status, answers: Sequence[Answer]) -> str:
    """One sentence: what became of the claim, and each of its contrasts with its interval."""
    said = "; ".join(wording.contrast(a) for a in answers if a.claimed)
    opening = experiment.question if status == "answered" else f"{experiment.claim}: {status}"
    return f"{opening} ({said})."


def uneven_tokens(scores: Scores) -> list[str]:
    """Arms that saw more or fewer tokens than the first one, of the same seed."""
    told, (first, *others) = [], list(scores)
    for name in others:
        ratios = [mine.tokens / its.tokens for its, mine in zip(scores[first], scores[name], strict=True)]
        worst = max(ratios, key=lambda ratio: abs(ratio - 1))
        if abs(worst - 1) > UNEVEN:
            told.append(f"“{name}” has {fmt.percent(worst)} of the tokens of “{first}”")
    return told


def _estimate(contrast: Contrast, scores: Scores) -> Estimate:
    """Over seeds, and over queries too where both scores are means over the same queries."""
    mine, its = scores[contrast.arm], scores[contrast.against]
    one, other = contrast.metric, contrast.against_metric or contrast.metric
    if not all(one in a.scores and other in b.scores for a, b in zip(mine, its, strict=True)):
        return Estimate(math.nan, math.nan, math.nan, math.nan, len(mine), 0)
    if contrast.kind == "reduction":
        return crossed_mean(
            [1 - a.scores[one] / b.scores[other] for a, b in zip(mine, its, strict=True)], null=contrast.least
        )
    if all(one in a.by_query and other in b.by_query for a, b in zip(mine, its, strict=True)):
        table = [np.subtract(a.by_query[one], b.by_query[other]) for a, b in zip(mine, its, strict=True)]
        return crossed_mean(np.array(table), null=contrast.least)
    return crossed_mean([a.scores[one] - b.scores[other] for a, b in zip(mine, its, strict=True)], null=contrast.least)


def _answer(contrast: Contrast, found: Estimate, p_holm: float) -> Answer:
    return Answer(
        arm=contrast.arm,
        against=contrast.against,
        metric=contrast.metric,
        against_metric=contrast.against_metric or contrast.metric,
        kind=contrast.kind,
        least=contrast.least,
        claimed=contrast.claimed,
        estimate=found.mean,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
        p_holm=p_holm,
        seeds=found.seeds,
        queries=found.queries,
        holds=_holds(contrast, found),
    )


def _holds(contrast: Contrast, found: Estimate) -> Literal["yes", "no", "open"]:
    if math.isnan(found.low):  # one seed confirms nothing
        return "open"
    if found.low > contrast.least:
        return "yes"
    # nothing is claimed of differences in rank or in shares that are too small to matter
    worth = WORTH if contrast.kind == "difference" and contrast.metric != RANK else 0.0
    return "no" if found.high < contrast.least + worth else "open"
