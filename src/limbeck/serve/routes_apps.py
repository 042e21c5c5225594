"""What vectors are for: `/v1/classify` and `/v1/similarity`.  N: texts, Q: queries, K: labels."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import AliasChoices, BaseModel, Field

from limbeck.classify import zero_shot
from limbeck.classify.examples import Described, checked
from limbeck.classify.head import Head
from limbeck.errors import ConfigError
from limbeck.serve.asking import Numbers, Parts, owner_of, parts_of, while_there
from limbeck.serve.catalogue import Choice
from limbeck.serve.embedding import Answer, Ask
from limbeck.serve.errors import Refusal
from limbeck.serve.routes_openai import Texts, texts_of
from limbeck.serve.tokens import Long

router = APIRouter(tags=["applications"])


class LabelItem(BaseModel):
    """A label, and what it means."""

    label: str = Field(min_length=1)
    description: str | None = None


class ClassifyRequest(BaseModel):
    """Texts, and either a classifier of the server or labels."""

    input: Texts = Field(examples=[["where is my card?"]])
    model: str | None = Field(None, description="A model of /v1/models.")
    classifier: str | None = Field(
        None,
        validation_alias=AliasChoices("classifier", "classifier_id"),
        description="One that the server was started with.",
    )
    labels: Annotated[list[Annotated[str, Field(min_length=1)] | LabelItem], Field(fail_fast=True)] | None = Field(
        None, description="Two or more, instead of a classifier.", examples=[["bank", "weather"]]
    )
    task: str | dict[str, float] | None = Field(None, description="For labels; clustering, if none is said.")
    dimensions: int | None = Field(None, description="For labels.")
    scale: float | None = Field(
        None, gt=0, le=1_000, description="For labels: cosines times this go into the softmax; 12."
    )
    truncate: bool | None = Field(False, description="Cut texts that are too long.")


class SimilarityRequest(BaseModel):
    """Two sides; each text of the one is compared with each of the other."""

    queries: Texts = Field(examples=["how do I join two tables?"])
    texts: Texts = Field(examples=[["SELECT * FROM a JOIN b USING (id)"]])
    model: str | None = Field(None, description="A model of /v1/models.")
    task: str | dict[str, float] | None = Field(
        None,
        description="The server's default if not said. With retrieval, `queries` are queries and `texts` passages.",
    )
    dimensions: int | None = None
    truncate: bool | None = Field(False, description="Cut texts that are too long.")


class Scored(BaseModel):
    """A label and its probability."""

    label: str | int
    score: float


class Classification(BaseModel):
    """One text's labels, the likeliest first."""

    object: Literal["classification"] = "classification"
    index: int
    prediction: str | int
    score: float
    predictions: list[Scored]


class ClassifyResponse(BaseModel):
    """In the order of the texts."""

    object: Literal["list"] = "list"
    data: list[Classification]
    model: str
    usage: dict[str, int]
    task: str | None
    dimensions: int
    fingerprint: str
    calibrated: bool = Field(description="Whether examples chose how sure the probabilities are.")


class SimilarityResponse(BaseModel):
    """Cosines: a row for each query, a number for each text."""

    similarities: list[list[float]]
    model: str
    usage: dict[str, int]
    task: str | None
    dimensions: int
    fingerprint: str


@router.post("/v1/classify", responses={200: {"model": ClassifyResponse}})
async def classify(body: ClassifyRequest, request: Request) -> Response:
    """Label texts by a saved classifier, or by what labels are called and mean."""
    parts, texts = parts_of(request), texts_of(body.input)
    if (body.classifier is None) == (body.labels is None):
        known = ", ".join(sorted(parts.classifiers)) or "none"
        raise Refusal(422, "invalid_request", f"give either `labels` or a `classifier`; those known are {known}")
    by_model = parts.catalogue.of_model(body.model)
    if body.classifier is not None:
        if by_model is not None or body.task is not None or body.dimensions is not None or body.scale is not None:
            raise Refusal(
                422, "invalid_request", "a saved classifier has its task, dimensions and scale: leave them out"
            )
        work = _by_classifier(parts, body, texts, owner_of(request))
    else:
        work = _by_labels(parts, body, texts, owner_of(request))
    head, found, tokens, calibrated = await while_there(request, work)
    probabilities = head.probabilities(found.vectors)
    data = []
    for i, row in enumerate(probabilities):
        order = np.argsort(-row, kind="stable")
        scored = [{"label": head.labels[k], "score": float(row[k])} for k in order]
        first = {"prediction": scored[0]["label"], "score": scored[0]["score"]}
        data.append({"object": "classification", "index": i, **first, "predictions": scored})
    answer = {"object": "list", "data": data, **_made(parts, body.model, found, tokens), "calibrated": calibrated}
    return Numbers(answer, headers=found.headers)


@router.post("/v1/similarity", responses={200: {"model": SimilarityResponse}})
async def similarity(body: SimilarityRequest, request: Request) -> Response:
    """Cosines of texts."""
    parts, owner = parts_of(request), owner_of(request)
    choice = parts.catalogue.choice(body.model, body.task)
    if choice.task == "auto":
        raise Refusal(422, "invalid_task", "auto could mean another blend for each side: name a task", param="task")
    sides = [choice, choice]
    if choice.label in ("retrieval.query", "retrieval.passage", "query", "document"):
        dot = "retrieval." if choice.task else ""
        sides = [parts.catalogue.find(f"{dot}query"), parts.catalogue.find(f"{dot}passage")]

    dim, long = body.dimensions, _long(body.truncate)
    asks = [
        Ask(texts_of(texts), side, owner, dim=dim, long=long)
        for texts, side in zip((body.queries, body.texts), sides, strict=True)
    ]
    queries, texts = await while_there(request, _together(parts, *asks))
    answer = {
        "similarities": np.clip(queries.vectors @ texts.vectors.T, -1, 1),  # rounding may go beyond
        **_made(parts, body.model, texts, queries.tokens + texts.tokens),
    }
    return Numbers(answer, headers=texts.headers)


async def _by_classifier(
    parts: Parts, body: ClassifyRequest, texts: list[str], owner: str
) -> tuple[Head, Answer, int, bool]:
    found = parts.classifiers.get(body.classifier or "")
    if found is None:
        known = ", ".join(sorted(parts.classifiers)) or "none"
        raise Refusal(404, "classifier_not_found", f"this classifier is not served; known are {known}")
    choice = Choice(found.task, "document", found.manifest.task or "document")
    ask = Ask(texts, choice, owner, dim=found.manifest.dim, long=_long(body.truncate))
    answer = await parts.embedder.embed(ask)
    return found.head, answer, answer.tokens, found.manifest.calibrated


async def _by_labels(
    parts: Parts, body: ClassifyRequest, texts: list[str], owner: str
) -> tuple[Head, Answer, int, bool]:
    given = [LabelItem(label=each) if isinstance(each, str) else each for each in body.labels or ()]
    try:
        labels = checked([Described(each.label, each.description) for each in given])
    except ConfigError:  # its message quotes the labels
        raise Refusal(422, "invalid_labels", "give two labels or more, all different", param="labels") from None
    usual = zero_shot.TASK if zero_shot.TASK in parts.catalogue.known else None
    choice = parts.catalogue.choice(body.model, body.task or (None if ":" in (body.model or "") else usual))
    if choice.task == "auto":
        raise Refusal(422, "invalid_task", "auto would depend on the texts: name a task or a blend", param="task")
    of_texts = Ask(texts, choice, owner, dim=body.dimensions, long=_long(body.truncate))
    of_labels = Ask([each.text for each in labels], choice, owner, dim=body.dimensions)
    found, rows = await _together(parts, of_texts, of_labels)
    names = tuple(each.label for each in labels)
    bias = np.zeros(len(names), np.float32)
    head = Head(names, rows.vectors, bias, 1 / (body.scale or zero_shot.SCALE))
    return head, found, found.tokens + rows.tokens, False


async def _together(parts: Parts, *asks: Ask) -> list[Answer]:
    """Answers to several, which are computed in one batch where there is room."""
    return list(await asyncio.gather(*map(parts.embedder.embed, asks)))


def _long(truncate: bool | None) -> Long:
    return "end" if truncate else "refuse"


def _made(parts: Parts, model: str | None, found: Answer, tokens: int) -> dict[str, Any]:
    """What every answer says of how it was made."""
    return {
        "model": model or parts.catalogue.name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "task": found.task,
        "dimensions": found.dim,
        "fingerprint": found.fingerprint,
    }
