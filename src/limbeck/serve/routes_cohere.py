"""`/v2/embed` as Cohere has it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from limbeck import compress
from limbeck.serve.asking import Numbers, base64_of, owner_of, parts_of, while_there
from limbeck.serve.embedding import Ask
from limbeck.serve.errors import Refusal
from limbeck.serve.routes_openai import check_bits
from limbeck.serve.tokens import Long

router = APIRouter(tags=["Cohere"])

Kind = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]

_INPUTS = {"search_query": "query", "search_document": "document"}  # Cohere's word → ours, where they differ
_LONG: dict[str, Long] = {"NONE": "refuse", "START": "start", "END": "end"}


class EmbedRequest(BaseModel):
    """What Cohere's clients send. Other fields are let pass, but not images."""

    model: str | None = Field(None, description="A model of /v1/models.")
    texts: Annotated[list[str], Field(fail_fast=True)] | None = Field(None, examples=[["how do I join two tables?"]])
    input_type: str | None = Field(
        None,
        description="search_query, search_document, classification, clustering; or any task of /v1/models. Needed, "
        "unless the model's name has a task.",
        examples=["search_document"],
    )
    embedding_types: Annotated[list[Kind], Field(fail_fast=True)] | None = Field(
        None,
        description="float, if none is said. int8: each vector by its own largest number, which changes no cosine; "
        "uint8: the same plus 128. binary, ubinary: one bit a number. base64: little-endian float32.",
    )
    output_dimension: int | None = None
    truncate: Literal["NONE", "START", "END"] = Field("END", description="What a text that is too long loses.")
    max_tokens: int | None = Field(None, ge=16, description="Tokens of a text; the model's limit if not said.")
    images: list[Any] | None = Field(None, description="Refused.")
    inputs: list[Any] | None = Field(None, description="Refused: send texts.")


class ByType(BaseModel):
    """Vectors in each form that was asked for."""

    float_: list[list[float]] | None = Field(None, alias="float")
    int8: list[list[int]] | None = None
    uint8: list[list[int]] | None = None
    binary: list[list[int]] | None = None
    ubinary: list[list[int]] | None = None
    base64: list[str] | None = None


class EmbedResponse(BaseModel):
    """Vectors, and what made them."""

    id: str
    response_type: Literal["embeddings_by_type"] = "embeddings_by_type"
    embeddings: ByType
    meta: dict[str, Any]
    task: str | None
    dimensions: int
    fingerprint: str


@router.post("/v2/embed", responses={200: {"model": EmbedResponse}})
async def embed(body: EmbedRequest, request: Request) -> Response:
    """Vectors of texts."""
    parts = parts_of(request)
    if body.images or body.inputs or body.texts is None:
        raise Refusal(400, "texts_needed", "`texts` is needed, a list of them; images and mixed inputs are not read")
    named = parts.catalogue.of_model(body.model)
    if body.input_type is None and named is None:
        raise Refusal(400, "input_type_needed", f"`input_type` is needed: {_known(parts.catalogue.known)}")
    asked = body.input_type and _INPUTS.get(body.input_type, body.input_type)
    choice = parts.catalogue.choice(body.model, asked)
    dim = parts.embedder.checked_dim(body.output_dimension)
    kinds: list[Kind] = list(dict.fromkeys(body.embedding_types or ["float"]))
    for kind in kinds:
        check_bits(kind, dim)
    ask = Ask(body.texts, choice, owner_of(request), dim=dim, long=_LONG[body.truncate], max_tokens=body.max_tokens)
    found = await while_there(request, parts.embedder.embed(ask))
    answer = {
        "id": request.state.request_id,
        "response_type": "embeddings_by_type",
        "embeddings": {kind: list(_as(kind, found.vectors)) for kind in kinds},
        "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": found.tokens}},
        "task": found.task,
        "dimensions": found.dim,
        "fingerprint": found.fingerprint,
    }
    return Numbers(answer, headers=found.headers)


def _as(kind: Kind, vectors: np.ndarray) -> Any:
    if kind == "float":
        return vectors
    if kind == "base64":
        return [base64_of(vector) for vector in vectors]
    if kind == "binary" or kind == "ubinary":
        return compress.compress(vectors, kind)
    codes, _ = compress.to_int8(vectors)
    return codes if kind == "int8" else (codes.astype(np.int16) + 128).astype(np.uint8)


def _known(tasks: list[str]) -> str:
    words = {"retrieval.query": "search_query", "retrieval.passage": "search_document"}
    words |= {"query": "search_query", "document": "search_document"}
    return ", ".join(words.get(task, task) for task in tasks)
