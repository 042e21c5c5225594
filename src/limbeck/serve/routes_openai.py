"""`/v1/embeddings` as OpenAI has it, with the fields of Jina's API on the same route; `/v1/models`."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from limbeck import compress
from limbeck.serve.asking import Numbers, base64_of, owner_of, parts_of, while_there
from limbeck.serve.embedding import Ask
from limbeck.serve.errors import Refusal

router = APIRouter(tags=["OpenAI and Jina"])

Form = Literal["float", "base64", "binary", "ubinary"]

TOKEN_IDS = (
    "this server takes texts, not token ids, which are those of another model's tokenizer; in LangChain, set "
    "OpenAIEmbeddings(check_embedding_ctx_length=False)"
)


class TextItem(BaseModel):
    """A text, as Jina's API also writes it."""

    model_config = ConfigDict(extra="forbid")

    text: str


# Read up to the first item that does not fit: else a body of millions would hold up all others while errors are listed
Texts = str | Annotated[list[str | TextItem], Field(fail_fast=True)]
TokenIds = (
    Annotated[list[int], Field(fail_fast=True)]
    | Annotated[list[Annotated[list[int], Field(fail_fast=True)]], Field(fail_fast=True)]
)


class EmbeddingsRequest(BaseModel):
    """What OpenAI's and Jina's clients send. Other fields are let pass."""

    input: Texts | TokenIds = Field(
        validation_alias=AliasChoices("input", "texts"),
        description="One text or many. Token ids are refused.",
        examples=[["how do I join two tables?"]],
    )
    model: str | None = Field(None, description="A model of /v1/models; NAME:TASK chooses a task.")
    encoding_format: Form | None = Field(None, description="float (if none is said) or base64: little-endian float32.")
    embedding_type: Form | None = Field(
        None,
        validation_alias=AliasChoices("embedding_type", "encoding_type"),
        description="As encoding_format; binary and ubinary: one bit a number, the first one in the highest bit of the "
        "first byte; bytes as they are (ubinary) or less 128 (binary).",
    )
    dimensions: int | None = Field(
        None,
        validation_alias=AliasChoices("dimensions", "output_dimension", "output_dimensionality"),
        description="Keep the first so many numbers, scaled to length 1 again.",
    )
    user: Any = Field(None, description="Not used.")
    task: str | dict[str, float] | None = Field(
        None,
        validation_alias=AliasChoices("task", "task_type", "input_type"),
        description="retrieval.query, retrieval.passage, text-matching, clustering, classification; auto; or a blend.",
    )
    normalized: bool | None = Field(True, description="Scale to length 1.")
    truncate: bool | None = Field(
        False, validation_alias=AliasChoices("truncate", "truncation"), description="Cut texts that are too long."
    )
    late_chunking: bool | None = Field(False, description="Read the texts as one, and give each a vector.")
    return_multivector: bool | None = Field(False, description="Refused.")


class Embedding(BaseModel):
    """One text's vector."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | list[int] | str


class Usage(BaseModel):
    """What was read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """Vectors in the order of the texts, and what made them."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage
    task: str | None
    dimensions: int
    fingerprint: str


class Model(BaseModel):
    """A name that `model` may have."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["limbeck"] = "limbeck"
    task: str | None
    dimensions: int
    fingerprint: str


class Models(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[Model]


@router.post("/v1/embeddings", responses={200: {"model": EmbeddingsResponse}})
async def embeddings(body: EmbeddingsRequest, request: Request) -> Response:
    """Vectors of texts."""
    parts = parts_of(request)
    texts = texts_of(body.input)
    choice = parts.catalogue.choice(body.model, body.task)
    if body.return_multivector:
        raise Refusal(422, "no_multivector", "this model gives one vector for a text", param="return_multivector")
    form = _form(body)
    dim = parts.embedder.checked_dim(body.dimensions)
    check_bits(form, dim)
    ask = Ask(
        texts,
        choice,
        owner_of(request),
        dim=dim,
        normalise=body.normalized is not False,
        long="end" if body.truncate else "refuse",
        late=bool(body.late_chunking),
    )
    found = await while_there(request, parts.embedder.embed(ask))
    shown: Any = found.vectors
    if form == "base64":
        shown = [base64_of(vector) for vector in found.vectors]
    elif form != "float":
        shown = compress.compress(found.vectors, form)
    body_out = {
        "object": "list",
        "data": [{"object": "embedding", "index": i, "embedding": each} for i, each in enumerate(shown)],
        "model": body.model or parts.catalogue.name,
        "usage": {"prompt_tokens": found.tokens, "total_tokens": found.tokens},
        "task": found.task,
        "dimensions": found.dim,
        "fingerprint": found.fingerprint,
    }
    return Numbers(body_out, headers=found.headers)


@router.get("/v1/models", response_model=Models)
async def models(request: Request) -> Models:
    """The model's name, and one for each task."""
    return Models(data=[_model(request, name) for name in parts_of(request).catalogue.models])


@router.get("/v1/models/{name:path}", response_model=Model)
async def model(name: str, request: Request) -> Model:
    """One of them."""
    parts_of(request).catalogue.of_model(name)
    return _model(request, name)


def texts_of(given: Any) -> list[str]:
    """The texts of a request's `input`. Raises Refusal: token ids."""
    if isinstance(given, str):
        return [given]
    if any(isinstance(each, int | list) for each in given):
        raise Refusal(400, "token_ids", TOKEN_IDS, param="input")
    return [each.text if isinstance(each, TextItem) else each for each in given]


def check_bits(form: str, dim: int) -> None:
    """Raise Refusal where bits do not fill bytes."""
    if form.endswith("binary") and dim % 8:
        raise Refusal(
            422,
            "invalid_dimensions",
            f"bits are packed eight to a byte: dimensions must be a multiple of 8, got {dim}",
            param="dimensions",
        )


def _form(body: EmbeddingsRequest) -> Form:
    """How vectors are written. Raises Refusal: said twice, differently."""
    said = {form for form in (body.encoding_format, body.embedding_type) if form}
    # OpenAI's client says base64 or float by itself; then what the user added by hand is meant
    if len(said) > 1 and body.embedding_type is None:
        raise Refusal(422, "invalid_request", "encoding_format is said twice", param="encoding_format")
    return body.embedding_type or body.encoding_format or "float"


def _model(request: Request, name: str) -> Model:
    parts = parts_of(request)
    encoder = parts.embedder.encoder
    choice = parts.catalogue.of_model(name) or parts.catalogue.default
    task = choice.task if choice else None
    known = choice is not None
    return Model(
        id=name,
        created=_STARTED,
        task=choice.label if choice else None,
        dimensions=encoder.dim,
        fingerprint=encoder.fingerprint_of(task) if known else encoder.fingerprint,
    )


_STARTED = int(time.time())
