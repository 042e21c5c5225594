"""Results of a small experiment, made by hand."""

import math
from typing import Any

from limbeck.ablation.results import Answer, ArmResult, CurvePoint, Results


def answer(**changes: Any) -> Answer:
    """“big” beats “small” for sure."""
    facts: dict[str, Any] = {
        "arm": "big",
        "against": "small",
        "metric": "held-out",
        "against_metric": "held-out",
        "kind": "difference",
        "least": 0.0,
        "estimate": 0.1,
        "low": 0.05,
        "high": 0.15,
        "p_value": 0.0004,
        "p_holm": 0.0008,
        "seeds": 3,
        "queries": 200,
        "holds": "yes",
    }
    return Answer(**facts | changes)


def arm(name: str, held_out: list[float], *changes: str, **scores: list[float]) -> ArmResult:
    """An arm with a score a seed. Names of further scores have _ for a blank."""
    n = len(held_out)
    others = {key.replace("_", " "): values for key, values in scores.items()}
    return ArmResult(
        name=name,
        changes=list(changes),
        scores={"held-out": held_out} | others,
        tokens=[1000] * n,
        steps=[10] * n,
        seconds=[60.0] * n,
    )


def results(**changes: Any) -> Results:
    """Two arms, three seeds."""
    facts: dict[str, Any] = {
        "name": "stages",
        "question": "Is big better?",
        "claim": "Big is better",
        "fixed": ["All arms have as many tokens"],
        "caveat": "the texts are few",
        "recipe": "ablate",
        "description": "A small student.",
        "metrics": ["held-out", "effective rank"],
        "units": {"held-out": "nDCG@10", "effective rank": "dims", "scifact": "main score"},
        "seeds": [0, 1, 2],
        "arms": [
            arm("small", [0.4, 0.5, 0.6], effective_rank=[9.0, 9.0, 9.0], scifact=[0.31, 0.31, 0.31]),
            arm("big", [0.5, 0.6, 0.7], "student.dims=[384]", effective_rank=[4.0, 5.0, 6.0], scifact=[0.2, 0.2, 0.2]),
        ],
        "references": {"teacher": {"held-out": 0.9}},
        "answers": [answer()],
        "status": "reproduced",
        "verdict": "Big is better: reproduced (big against small +0.100 [+0.050, +0.150]).",
        "leaks": {"scifact": 0},
        "warnings": [],
        "counts": {"queries": 200},
        "hours": 1.25,
        "commands": ["limbeck ablate stages --tasks /data/bench/scifact"],
        "created": "2026-01-02T03:04:05Z",
        "machine": {"cpu": "a cpu", "cores": 2, "gpu": None},
        "versions": {"limbeck": "0.1.0"},
    }
    return Results(**facts | changes)


def one_seed() -> Results:
    """The same of one seed, which leaves all open."""
    nan = math.nan
    return results(
        seeds=[0],
        arms=[arm("small", [0.4]), arm("big", [0.5])],
        answers=[answer(low=nan, high=nan, p_value=nan, p_holm=nan, seeds=1, holds="open")],
        status="not decidable at this scale",
        verdict="Big is better: not decidable at this scale (big against small +0.100).",
    )


def with_curves(scores: list[list[float]]) -> list[ArmResult]:
    """Two arms, whose first has these scores along its curves, a curve a seed."""
    curves = [
        [CurvePoint(step=i + 1, tokens=1000 * (i + 1), score=score) for i, score in enumerate(curve)]
        for curve in scores
    ]
    return [arm(name, [0.5, 0.6, 0.7]).model_copy(update={"curves": curves}) for name in ("small", "big")]
