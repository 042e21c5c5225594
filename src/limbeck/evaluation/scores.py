"""What one run measured: the schema of scores.json, and all that the report is made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from limbeck.config import TASKS
from limbeck.errors import DataError
from limbeck.evaluation.results import CurvePoint, Leak, VectorPrecision
from limbeck.files import read_json, write_json


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ByModel(_Part):
    """One metric, mean over the same held-out queries, for each model. None = not measured."""

    teacher: float | None = None
    student: float | None = None
    untrained: float | None = None  # the student before its first step
    static: float | None = None  # a vector for each token, the floor to beat


class Sides(_Part):
    """One number for each side. None = not known."""

    teacher: float | None = None
    student: float | None = None
    static: float | None = None


class DimScore(_Part):
    """nDCG@10 with smaller vectors, as `compression.compression_curve_of` gives it, mean over the sets."""

    dim: int = Field(gt=0)
    precision: VectorPrecision = "float32"
    rescored_by: Literal["int8", "float32"] | None = None  # the best of a 1-bit search, put in order by these
    ndcg_at_10: float
    bytes: int = Field(gt=0)  # of one stored vector, with what rescoring needs
    relative_to_full: float | None = None  # against the same model's full float32 vectors

    def point(self) -> CurvePoint:
        """The same as a point of a compression curve."""
        body = self.model_dump(exclude={"ndcg_at_10"})
        return CurvePoint(**body, score=self.ndcg_at_10)


class ParameterCount(_Part):
    """Weights of one model."""

    total: int = Field(gt=0)
    without_token_embeddings: int | None = None  # what every token passes through


class Parameters(_Part):
    """Weights of the models."""

    teacher: ParameterCount | None = None
    student: ParameterCount | None = None
    static: ParameterCount | None = None


class IndexScore(_Part):
    """Held-out nDCG@10 where one model encodes the queries and one the documents, "base" and "retrieval" the student.

    Its queries are projected into the teacher's space where the teacher encodes the documents.
    """

    queries: Literal["teacher", "base", "retrieval"]
    documents: Literal["teacher", "base", "retrieval"]
    ndcg_at_10: float = Field(ge=0, le=1)


class ExampleHit(_Part):
    """One document that a search found."""

    id: str
    score: float
    gold: bool = False  # it is the document that belongs to the query
    text: str | None = None  # the document's beginning


class ExampleSearch(_Part):
    """One search by the student over the held-out documents, or over the whole corpus."""

    query: str
    hits: list[ExampleHit]
    gold: str | None = None  # id of the document that belongs to the query
    gold_rank: int | None = Field(None, gt=0)  # 1 = first; None = unknown or not searched for


SPEAKERS: tuple[str, ...] = ("base", *TASKS, "auto", "static", "teacher")
"""Whose vectors a task is scored with: the distilled base, one of its adapters, the router's choice, the static model
that is to be beaten, the teacher.
"""

TaskScore = Annotated[float, Field(ge=-1, le=1)]  # Spearman goes below 0


class SpreadScore(_Part):
    """Held-out nDCG@10 of a retrieval adapter that was trained with or without the orthogonal regulariser."""

    regularised: bool
    precision: VectorPrecision
    dim: int = Field(gt=0)
    ndcg_at_10: float = Field(ge=0, le=1)


class TrainingSource(_Part):
    """What training read of one source."""

    kind: str  # of its examples: "pair", "labelled_text", …
    examples: int = Field(ge=0)
    weight: float | None = None  # in the mix, relative to the others
    languages: dict[str, int] = {}  # tag, e.g. "de" → examples; those without a tag are in none
    tokens: int | None = None


class MapPoint(_Part):
    """One held-out text on the map."""

    x: float
    y: float
    label: str
    text: str  # its beginning


class VectorMap(_Part):
    """Held-out vectors laid out in the plane, see `vector_map.project`. Near means alike; the axes mean nothing."""

    points: list[MapPoint] = Field(min_length=1)
    texts: int = Field(gt=0)  # that the points are a sample of


class Averaging(_Part):
    """An adapter as it ended and averaged with an earlier checkpoint, on the dev part, by its task's metric."""

    final: TaskScore
    averaged: TaskScore
    kept: Literal["final", "averaged"]


class Scores(_Part):
    """One run. Only `ndcg_at_10` is required; the report leaves out what is not given.

    `retention` is filled in from `ndcg_at_10` when absent.
    """

    format: int = 1
    name: str | None = None  # of the run
    description: str | None = None
    created: str | None = None  # ISO 8601, e.g. "2026-03-01T10:22:00Z"
    teacher: str | None = None  # what the teacher is, e.g. "all-MiniLM-L6-v2"
    student: str | None = None  # what the student is, e.g. "4 × 256 decoder, last-token pooling"

    ndcg_at_10: ByModel
    recall_at_10: ByModel | None = None
    mrr_at_10: ByModel | None = None
    retention: float | None = None  # student nDCG@10 / teacher nDCG@10
    queries: int | None = None  # held-out queries
    documents: int | None = None  # documents that each query is searched in

    seconds: float | None = None  # wall time of all stages, data to report
    seconds_by_stage: dict[str, float] = {}  # in the order they ran
    peak_rss_mb: float | None = None  # largest resident memory of any process of the run, MiB

    indexes: list[IndexScore] = []  # who asks and whose index is searched

    dims: list[DimScore] = []  # the student's vectors
    teacher_dims: list[DimScore] = []  # the teacher's, truncated the same way
    vector_dim: Sides | None = None  # full width
    texts_per_second: Sides | None = None  # documents encoded, same texts, machine and threads
    parameters: Parameters | None = None
    compute_per_token_ratio: float | None = None  # student / teacher, multiply-adds of a forward pass
    max_tokens: Sides | None = None

    adapters: dict[str, dict[str, TaskScore]] = {}  # task → one of SPEAKERS → score on the test part
    adapter_metrics: dict[str, str] = {}  # task → name of its metric, e.g. "nDCG@10"
    spread: list[SpreadScore] = []  # with and without the orthogonal regulariser
    averaging: dict[str, Averaging] = {}  # only where the better one was kept

    data: dict[str, dict[str, float | int | str | None]] = {}  # source → counts, see `limbeck.data.prepare`
    training: dict[str, TrainingSource] = {}  # source → what training read of it
    leaks: dict[str, Leak] = {}  # what was scored → training texts found again in it
    map: VectorMap | None = None
    steps: int | None = None  # optimizer steps
    tokens: int | None = None  # real (unpadded) tokens trained on
    examples: list[ExampleSearch] = []
    command: str | None = None  # the exact command line
    versions: dict[str, str] = {}  # package → version
    machine: dict[str, str | int | float | None] = {}  # e.g. {"cpu": …, "cores": 2, "memory_gb": 8, "device": "cpu"}

    @model_validator(mode="before")
    @classmethod
    def _fill_retention(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("retention") is None:
            ndcg = values.get("ndcg_at_10")
            ndcg = ndcg.model_dump() if isinstance(ndcg, ByModel) else ndcg
            if isinstance(ndcg, Mapping) and ndcg.get("teacher") and ndcg.get("student") is not None:
                return {**values, "retention": ndcg["student"] / ndcg["teacher"]}
        return values

    @field_validator("adapters", "adapter_metrics", "averaging")
    @classmethod
    def _by_task(cls, values: dict[str, Any]) -> dict[str, Any]:
        if unknown := [task for task in values if task not in TASKS]:
            raise ValueError(f"unknown task {unknown[0]!r}: the tasks are {', '.join(TASKS)}")
        return values

    @field_validator("adapters")
    @classmethod
    def _by_speaker(cls, adapters: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        if unknown := [who for row in adapters.values() for who in row if who not in SPEAKERS]:
            raise ValueError(f"unknown adapter {unknown[0]!r}: known are {', '.join(SPEAKERS)}")
        return adapters

    @field_validator("spread")
    @classmethod
    def _each_once(cls, spread: list[SpreadScore]) -> list[SpreadScore]:
        measured = [(s.dim, s.precision, s.regularised) for s in spread]
        if twice := sorted({m for m in measured if measured.count(m) > 1}):
            raise ValueError(f"scored twice (dim, precision, regularised): {twice}")
        return spread

    def save(self, path: Path) -> None:
        """Write scores.json, atomically."""
        write_json(path, self.model_dump(mode="json"))


def parse_scores(scores: Scores | Mapping[str, Any]) -> Scores:
    """Check a dict against the schema. Raises DataError that names each field that does not fit."""
    if isinstance(scores, Scores):
        return scores
    try:
        return Scores.model_validate(scores)
    except ValidationError as error:
        lines = [f"  {'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()]
        raise DataError("scores do not fit the schema:\n" + "\n".join(lines)) from None


def read_scores(path: Path) -> Scores:
    """Read scores.json. Raises DataError when it is not JSON or does not fit, FileNotFoundError when absent."""
    try:
        return parse_scores(read_json(path))
    except ValueError as error:
        raise DataError(str(error)) from None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a training log, one JSON object a line. A torn last line (a run that was killed) is left out.

    Raises DataError that names the line of any other text that is not a JSON object.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            if number == len(lines):
                break
            raise DataError(f"{path}:{number}: not a JSON object") from None
        rows.append(row)
    return rows
