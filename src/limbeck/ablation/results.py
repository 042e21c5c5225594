"""What an experiment came to: the schema of results.json, and of each arm's scores.json."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

Status = Literal["reproduced", "not reproduced", "not decidable at this scale", "answered"]
"""`answered`: the paper claimed nothing."""

# JSON has no NaN
Number = Annotated[
    float,
    BeforeValidator(lambda v: math.nan if v is None else v),
    PlainSerializer(lambda v: None if math.isnan(v) else v),
]


class Part(BaseModel):
    """Base of all parts."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CurvePoint(Part):
    """A point of a learning curve."""

    step: int
    tokens: int
    score: float


class ArmScores(Part):
    """One arm of one seed, scored."""

    key: str  # digest of all that the scores depend on
    arm: str
    seed: int
    scores: dict[str, float]
    by_query: dict[str, list[float]] = {}  # of the scores that are means over queries
    curve: list[CurvePoint] = []
    tokens: int  # in training, of all stages
    steps: int
    seconds: float  # of its stages, shared ones included
    leaks: dict[str, int] = {}  # training texts found in a task's texts, exact or near
    dims: int = 0  # of its vectors, uncut; 0 = not known


class ArmResult(Part):
    """One arm, all seeds. Lists are in the order of Results.seeds."""

    name: str
    changes: list[str]
    scores: dict[str, list[float]]
    curves: list[list[CurvePoint]] = []
    tokens: list[int]
    steps: list[int]
    seconds: list[float]
    dims: int = 0  # of its vectors, uncut; 0 = not known


class Answer(Part):
    """A contrast, estimated."""

    arm: str
    against: str
    metric: str
    against_metric: str
    kind: Literal["difference", "reduction"]
    least: float
    claimed: bool = True  # False = a question of ours, beside the claim
    estimate: Number
    low: Number
    high: Number
    p_value: Number  # of "it is `least`", two-sided
    p_holm: Number  # the same, for all contrasts of the experiment together
    seeds: int
    queries: int  # 0 = one value a seed
    holds: Literal["yes", "no", "open"]


class Results(Part):
    """An experiment, done."""

    format: int = 1
    name: str
    question: str
    claim: str
    fixed: list[str]
    caveat: str
    recipe: str
    description: str
    metrics: list[str]  # shown first
    units: dict[str, str]
    seeds: list[int]
    arms: list[ArmResult]
    references: dict[str, dict[str, float]]  # "teacher" → its scores
    answers: list[Answer]
    status: Status
    verdict: str  # one sentence
    leaks: dict[str, int]
    warnings: list[str]
    counts: dict[str, int]
    hours: float  # of computing, stages that arms share counted once
    commands: list[str]
    created: str
    machine: dict[str, Any]
    versions: dict[str, str]
