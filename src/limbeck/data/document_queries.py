"""Queries for documents that have none: from what a document says itself, or from a language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from limbeck.config import QueriesSource
from limbeck.data.examples import Example, Pair
from limbeck.data.headings import headings, split_summary
from limbeck.data.query_writer import write_queries


@dataclass(frozen=True, slots=True)
class Document:
    """A document, whatever it is in its example."""

    id: str
    text: str
    lang: str | None
    teacher_text: str | None  # what the teacher reads in its place


Ask = Callable[[Sequence[Document]], list[list[Pair]]]


def document_of(example: Example) -> Document:
    """The document of a pair, or the text."""
    if isinstance(example, Pair):
        return Document(example.id, example.document, example.lang, example.teacher_document)
    return Document(example.id, example.text, example.lang, example.teacher_text)


def asking(source: QueriesSource) -> Ask:
    """The function that makes of [N] documents the pairs of each, none where nothing asks for it.

    It gives the same pairs for the same documents, called again: what a model has written is kept. It raises DataError
    as `write_queries` does.
    """
    if source.by == "heading":
        return lambda documents: [[_pair(d, heading) for heading in headings(d.text)] for d in documents]
    if source.by == "summary":
        return lambda documents: [_summarised(d) for d in documents]
    model = source.model
    assert model is not None  # checked by the recipe

    def ask(documents: Sequence[Document]) -> list[list[Pair]]:
        written = write_queries([d.text for d in documents], model)
        return [[_pair(d, query)] if query else [] for d, query in zip(documents, written, strict=True)]

    return ask


def _pair(document: Document, query: str) -> Pair:
    """The query and the whole document."""
    return Pair(
        id=document.id,
        query=query,
        document=document.text,
        lang=document.lang,
        teacher_document=document.teacher_text,
    )


def _summarised(document: Document) -> list[Pair]:
    """The first sentence and what follows it; of what the teacher reads as well, where that is another text."""
    split = split_summary(document.text)
    taught = split_summary(document.teacher_text) if document.teacher_text else (None, None)
    if not split or not taught:
        return []
    pair = _pair(replace(document, text=split[1], teacher_text=taught[1]), split[0])
    return [replace(pair, teacher_query=taught[0])]
