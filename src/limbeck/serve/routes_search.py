"""Search in the indexes that the server was started with: `/v1/search` and `/v1/indexes`.  Q: queries, D: dims."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import AliasChoices, BaseModel, Field

from limbeck.errors import ConditionError, DataError, StoreError
from limbeck.search.conditions import Kind
from limbeck.search.engine import MOST_OVERSAMPLING, OVERSAMPLING
from limbeck.search.index import Passage
from limbeck.search.spec import Chunks, Precision
from limbeck.serve.asking import Numbers, Parts, owner_of, parts_of, while_there
from limbeck.serve.embedding import Ask
from limbeck.serve.errors import Refusal
from limbeck.serve.searching import Searcher

router = APIRouter(tags=["search"])

log = logging.getLogger("limbeck.serve")


class SearchRequest(BaseModel):
    """What is looked for, and where."""

    query: str | Annotated[list[str], Field(fail_fast=True)] = Field(
        validation_alias=AliasChoices("query", "queries", "input"),
        description="One query or many.",
        examples=["how do I join two tables?"],
    )
    index: str | None = Field(None, description="One of /v1/indexes; may be left out where there is only one.")
    k: int = Field(
        10, ge=1, le=1_000, validation_alias=AliasChoices("k", "top_k", "top_n", "limit"), description="Hits a query."
    )
    where: dict[str, Any] | None = Field(
        None,
        description='Conditions on fields, all of which must hold: {"lang": "en"}, {"lang": ["en", "de"]} for any of '
        'them, {"year": {">=": 2020, "<": 2024}}, {"lang": {"!=": "en"}}.',
        examples=[{}],
    )
    by: Literal["vectors", "words", "both"] = Field(
        "vectors", description="words: BM25; both: the sum of 1 / (60 + rank) in either."
    )
    exact: bool = Field(False, description="Compare with every vector at float16, instead of by graph and small ones.")
    oversampling: float = Field(
        OVERSAMPLING,
        ge=1,
        le=MOST_OVERSAMPLING,
        description="Candidates by small vectors for each hit, then put in order at float16.",
    )
    truncate: bool | None = Field(False, description="Cut queries that are too long.")


class Hit(BaseModel):
    """A document that was found, and its best chunk."""

    rank: int = Field(description="1 is the best.")
    score: float = Field(description="Cosine by vectors, BM25 by words, by both the sum of 1 / (60 + rank).")
    id: str = Field(description="Of the document.")
    text: str = Field(description="Of the chunk.")
    title: str
    fields: dict[str, Any]
    start: int = Field(description="Characters of the document's text that the chunk is.")
    end: int
    chunk: int = Field(description="Its number, from 0.")
    chunks: int = Field(description="That the document has.")


class Found(BaseModel):
    """Of one query."""

    object: Literal["search_result"] = "search_result"
    index: int = Field(description="The query's number, from 0.")
    hits: list[Hit]


class SearchResponse(BaseModel):
    """In the order of the queries."""

    object: Literal["list"] = "list"
    data: list[Found]
    index: str
    model: str
    usage: dict[str, int]
    task: str | None = Field(description="That queries are encoded for.")
    dimensions: int
    fingerprint: str = Field(description="Of the model that made the vectors of the index, and of the queries.")


class IndexInfo(BaseModel):
    """An index that is served."""

    name: str
    object: Literal["index"] = "index"
    documents: int
    dimensions: int
    precision: Precision
    task: str | None
    fingerprint: str
    chunks: Chunks
    words: bool = Field(description="Whether it can be searched by words.")
    fields: dict[str, Kind] = Field(description="Of its documents, and what each holds.")


class Indexes(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[IndexInfo]


@router.post("/v1/search", responses={200: {"model": SearchResponse}})
async def search(body: SearchRequest, request: Request) -> Response:
    """The best documents of each query, each document once, by its best chunk."""
    parts = parts_of(request)
    searcher = _searcher(parts, body.index)
    spec, index = searcher.index.spec, searcher.index
    queries = [body.query] if isinstance(body.query, str) else body.query
    if not queries:
        raise Refusal(400, "empty_input", "there is no query: send one or more", param="query")
    if len(queries) > (most := parts.settings.request_texts):
        raise Refusal(413, "too_many_texts", f"{len(queries):,} queries in one request, over the limit of {most:,}")
    if body.by != "vectors" and not spec.words:
        raise Refusal(422, "no_words", "this index was made without words: search it by vectors", param="by")
    try:
        index.check_search(queries, k=body.k, where=body.where, by=body.by)
    except ConditionError as error:
        raise Refusal(422, "invalid_where", error.unquoted, param="where") from None
    except DataError as error:
        raise Refusal(422, "invalid_query", str(error), param="query") from None

    choice = parts.catalogue.settled(spec.encoding_task, index.query_role)
    long = "end" if body.truncate else "refuse"
    ask = Ask(queries, choice, owner_of(request), dim=spec.dim, long=long)
    results, tokens = await while_there(request, _results(parts, searcher, body, ask))
    answer = {
        "object": "list",
        "data": [
            {"object": "search_result", "index": i, "hits": [asdict(hit) for hit in hits]}
            for i, hits in enumerate(results)
        ],
        "index": searcher.name,
        "model": parts.catalogue.name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "task": choice.label,
        "dimensions": spec.dim,
        "fingerprint": spec.fingerprint,
    }
    headers = {
        "X-Limbeck-Task": choice.label,
        "X-Limbeck-Dims": str(spec.dim),
        "X-Limbeck-Fingerprint": spec.fingerprint,
    }
    return Numbers(answer, headers=headers)


@router.get("/v1/indexes", response_model=Indexes)
async def indexes(request: Request) -> Indexes:
    """What can be searched."""
    return Indexes(data=[await _info(each) for each in parts_of(request).searchers.values()])


async def _results(parts: Parts, searcher: Searcher, body: SearchRequest, ask: Ask) -> tuple[list[list[Passage]], int]:
    """Hits of each query, and tokens that were encoded for them. Raises Refusal."""
    found = None if body.by == "words" else await parts.embedder.embed(ask)
    results: list[list[Passage]] = []
    try:
        for i, query in enumerate(ask.texts):  # one at a time: others take turns, and who has gone is dropped
            row = None if found is None else found.vectors[i : i + 1]
            how: dict[str, Any] = body.model_dump(include={"k", "where", "by", "exact", "oversampling"})
            results += await searcher.run(
                lambda query=query, row=row, how=how: searcher.index.search_encoded([query], row, **how)
            )
    except StoreError as error:
        raise _failed(searcher, error) from None
    return results, 0 if found is None else found.tokens


async def _info(searcher: Searcher) -> IndexInfo:
    index = searcher.index
    try:
        documents = await searcher.run(lambda: len(index))
    except StoreError as error:
        raise _failed(searcher, error) from None
    spec = index.spec
    return IndexInfo(
        name=searcher.name,
        documents=documents,
        dimensions=spec.dim,
        precision=spec.precision,
        task=spec.task,
        fingerprint=spec.fingerprint,
        chunks=spec.chunks,
        words=spec.words,
        fields=dict(spec.fields),
    )


def _failed(searcher: Searcher, error: StoreError) -> Refusal:
    """What may be said of it: the error itself names paths and addresses."""
    log.error("index %s failed: %s", searcher.name, type(error.__cause__ or error).__name__)
    return Refusal(503, "index_failed", "the index does not answer now: try again later", retry_after=5)


def _searcher(parts: Parts, name: str | None) -> Searcher:
    known = parts.searchers
    if name is None and len(known) == 1:
        return next(iter(known.values()))
    said = ", ".join(sorted(known)) or "none"
    if name is None and known:
        raise Refusal(422, "index_needed", f"say which index: known are {said}", param="index")
    if name is None or name not in known:
        raise Refusal(404, "index_not_found", f"this index is not served; known are {said}", param="index")
    return known[name]
