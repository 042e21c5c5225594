"""What `limbeck evaluate` measured: the schema of results.json, one entry a model variant, one score a task.

A variant is a model with all that changes its scores: adapter, dims, precision, checkpoint. Its `identity` names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from limbeck.errors import DataError
from limbeck.files import read_json, write_json

VectorPrecision = Literal["float32", "int8", "binary"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Leak(_Part):
    """Training texts found again in a task's texts."""

    exact: int = Field(ge=0)  # evaluation texts that are a training text, after normalisation
    near: int = Field(ge=0)  # further ones that are a near duplicate of one
    texts: int = Field(ge=0)  # distinct evaluation texts that were looked at
    threshold: float  # Jaccard of n-grams from which on a text counts as near
    examples: list[tuple[str, str]] = []  # (evaluation text, training text), shortened


class CurvePoint(_Part):
    """Score of a retrieval task with smaller vectors."""

    dim: int = Field(gt=0)
    precision: VectorPrecision
    rescored_by: Literal["int8", "float32"] | None = None  # the best of a 1-bit search, put in order by these
    score: float
    bytes: int = Field(gt=0)  # of one stored document vector, with what rescoring needs
    relative_to_full: float | None = None  # against the same model's full float32 vectors


class TaskResult(_Part):
    """One task scored with one variant."""

    task: str  # "scifact"
    type: str  # mteb's: "Retrieval", "STS", …
    metric: str  # of `score`, as mteb names it: "ndcg_at_10"
    score: float
    scores: dict[str, float] = {}  # every metric that mteb gives
    subsets: dict[str, float] = {}  # `score` by language or other subset, where there are several
    languages: list[str] = []  # as mteb tags them: "eng-Latn"
    counts: dict[str, int] = {}  # {"queries": 300, "documents": 5183}
    adapter: str | None = None  # task adapter that was used, None = the model has none or its base was asked for
    by_item: dict[str, float] = {}  # query id → its part of `score`, where the score is a mean over queries
    warnings: list[str] = []  # counted, e.g. "3 qrels name documents that are not in the corpus"
    leak: Leak | None = None  # None = not looked for
    curve: list[CurvePoint] = []  # retrieval only
    seconds: float | None = None


class ModelResult(_Part):
    """One variant on all tasks."""

    model: str  # what a table calls it
    identity: str  # changes with whatever changes its scores; no other variant has it
    kind: Literal["bundle", "jina-v5", "sentence-transformers", "openai", "static", "teacher-index"]
    group: str | None = None  # variants that differ in nothing but the seed of their training have one group
    seed: int | None = None
    dim: int = Field(gt=0)
    precision: VectorPrecision = "float32"
    max_tokens: int | None = None
    parameters: int | None = None
    texts_per_second: float | None = None
    tasks: list[TaskResult] = []

    @model_validator(mode="after")
    def _each_once(self) -> ModelResult:
        names = [t.task for t in self.tasks]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"tasks scored twice: {', '.join(twice)}")
        return self


class Evaluation(_Part):
    """One call of `limbeck evaluate`, or several brought together."""

    format: int = 1
    created: str | None = None  # ISO 8601
    commands: list[str] = []
    versions: dict[str, str] = {}
    machine: dict[str, str | int | float | None] = {}
    warnings: list[str] = []  # about the whole: "13 tasks are private, and were left out: …"
    models: list[ModelResult] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_once(self) -> Evaluation:
        identities = [m.identity for m in self.models]
        if twice := sorted({i for i in identities if identities.count(i) > 1}):
            raise ValueError(f"models listed twice: {', '.join(twice)}")
        return self

    def save(self, path: Path) -> None:
        """Write results.json, atomically."""
        write_json(path, self.model_dump(mode="json"))


def parse_evaluation(body: Evaluation | Mapping[str, Any]) -> Evaluation:
    """Check a dict against the schema. Raises DataError that names each field that does not fit."""
    if isinstance(body, Evaluation):
        return body
    try:
        return Evaluation.model_validate(body)
    except ValidationError as error:
        lines = [f"  {'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()]
        raise DataError("results do not fit the schema:\n" + "\n".join(lines)) from None


def read_evaluation(path: Path) -> Evaluation:
    """Read results.json. Raises DataError when it is not JSON or does not fit, FileNotFoundError when absent."""
    try:
        return parse_evaluation(read_json(path))
    except ValueError as error:
        raise DataError(str(error)) from None
