"""`/embed` and `/info` as Hugging Face's text-embeddings-inference has them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from limbeck import __version__
from limbeck.serve.asking import Numbers, owner_of, parts_of, while_there
from limbeck.serve.embedding import Ask
from limbeck.serve.routes_openai import TokenIds, texts_of

router = APIRouter(tags=["text-embeddings-inference"])


class TeiRequest(BaseModel):
    """What TEI's clients send."""

    inputs: str | Annotated[list[str], Field(fail_fast=True)] | TokenIds = Field(
        examples=[["how do I join two tables?"]]
    )
    truncate: bool | None = Field(False, description="Cut texts that are too long.")
    truncation_direction: Literal["Left", "Right", "left", "right"] = Field(
        "Right", description="Where they are cut: left, they lose their start."
    )
    prompt_name: str | None = Field(None, description="query, document, or any task of /v1/models.")
    normalize: bool | None = Field(True, description="Scale to length 1.")
    dimensions: int | None = Field(None, description="Keep the first so many numbers.")


class Info(BaseModel):
    """What is served, and within which limits."""

    model_id: str
    model_sha: str = Field(description="The model's fingerprint.")
    model_dtype: str
    model_type: dict[str, Any]
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_client_batch_size: int
    max_request_tokens: int
    auto_truncate: bool = False
    version: str
    tasks: list[str]
    default_task: str | None
    dimensions: list[int] = Field(description="Widths that vectors were trained to be cut to.")
    classifiers: list[str]
    indexes: list[str]


@router.post("/embed", responses={200: {"model": list[list[float]]}})
async def embed(body: TeiRequest, request: Request) -> Response:
    """Vectors of texts, and nothing besides: task, dims and fingerprint are in the headers."""
    parts = parts_of(request)
    ask = Ask(
        texts_of(body.inputs),
        parts.catalogue.find(body.prompt_name),
        owner_of(request),
        dim=body.dimensions,
        normalise=body.normalize is not False,
        long=("start" if body.truncation_direction.lower() == "left" else "end") if body.truncate else "refuse",
    )
    found = await while_there(request, parts.embedder.embed(ask))
    return Numbers(found.vectors, headers=found.headers)


@router.get("/info", response_model=Info)
async def info(request: Request) -> Info:
    """The model, its tasks, the limits."""
    parts = parts_of(request)
    encoder, settings = parts.embedder.encoder, parts.settings
    default = parts.catalogue.default
    return Info(
        model_id=parts.catalogue.name,
        model_sha=encoder.fingerprint,
        model_dtype={"fp32": "float32", "bf16": "bfloat16"}[encoder.compute],
        model_type={"embedding": {"pooling": encoder.spec.pooling}},
        max_concurrent_requests=settings.waiting_requests,
        max_input_length=encoder.max_tokens,
        max_batch_tokens=parts.embedder.batch_tokens,
        max_client_batch_size=settings.request_texts,
        max_request_tokens=settings.request_tokens,
        version=__version__,
        tasks=parts.catalogue.known,
        default_task=default.label if default else None,
        dimensions=encoder.dims,
        classifiers=sorted(parts.classifiers),
        indexes=sorted(parts.searchers),
    )
