"""Documents → chunks with a vector each: whole, cut and encoded apart, or cut after one reading (late chunking)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from limbeck.encoding.vectors import Model, Task
from limbeck.errors import ConfigError, DataError, TextError
from limbeck.model.spans import Span, spans_of
from limbeck.search.documents import Document
from limbeck.search.spec import Chunks

_NO_LIMIT = 2**31 - 1  # tokens, where they are only counted


class IndexModel(Model, Protocol):
    """What an index needs of a model; `limbeck.load` gives one."""

    tokenizer: Any  # asked for token ids, to see what late chunking can read at once


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a document. vector: float32 [D], of length 1."""

    document: Document
    number: int
    of: int
    span: Span
    vector: np.ndarray

    @property
    def text(self) -> str:
        """Its characters of the document."""
        return self.document.text[slice(*self.span)]


def titled(document: Document, text: str) -> str:
    """A text of a document as a model reads it: its title in front, as in all corpora of limbeck."""
    return f"{document.title.strip()}. {text}" if document.title.strip() else text


def chunks_of(
    model: IndexModel,
    documents: Sequence[Document],
    *,
    how: Chunks,
    max_chars: int,
    task: Task,
    dim: int,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[Chunk], int]:
    """Chunks of documents, in their order, and how many texts the model cut.

    Args:
        model: makes the vectors.
        documents: with a text each.
        how: "none": a document is one chunk, of which the model reads as much as it can. "separate": parts of up to
            `max_chars` characters, whole paragraphs where they fit, each encoded by itself with the title in front.
            "late" (2409.04701): the same parts, but each vector is made of the states of its tokens in a reading of the
            whole document, or of as much around it as the model can read.
        max_chars: of a part.
        task: settled.
        dim: width of the vectors.
        progress: called with the number of texts that were read since the last call.

    Raises DataError that names a document: a text that cannot be encoded, a vector that is not finite or without
    direction; or the model gives another width.
    """
    spans = [[(0, len(d.text))] if how == "none" else spans_of(d.text, max_chars=max_chars) for d in documents]
    if how == "late":
        vectors, cut = _late(model, documents, spans, task=task, dim=dim, progress=progress)
    else:
        texts = [titled(d, d.text[slice(*s)]) for d, own in zip(documents, spans, strict=True) for s in own]
        owner = [d for d, own in zip(documents, spans, strict=True) for _ in own]
        vectors, cut = _encoded(model, texts, owner, task=task, dim=dim, progress=progress)
    rows = iter(vectors)
    made = [
        Chunk(document, number, len(own), span, next(rows))
        for document, own in zip(documents, spans, strict=True)
        for number, span in enumerate(own)
    ]
    return made, cut


def _encoded(model: IndexModel, texts: list[str], owner: Sequence[Document], **how: Any) -> tuple[np.ndarray, int]:
    try:
        encode: Any = model.encode
        vectors = encode(texts, role="document", **how)
    except TextError as error:
        raise DataError(f"{owner[error.index].where} {error.reason}") from None
    return _checked(vectors, owner, how["dim"]), model.truncated


def _late(
    model: IndexModel,
    documents: Sequence[Document],
    spans: Sequence[Sequence[Span]],
    *,
    task: Task,
    dim: int,
    progress: Callable[[int], None] | None,
) -> tuple[np.ndarray, int]:
    """Each document is read in as few windows of whole spans as the model's limit allows."""
    windows = [
        _Window.of(document, own[first:stop])
        for document, own in zip(documents, spans, strict=True)
        for first, stop in _ranges(model, document, own)
    ]
    found: dict[int, np.ndarray] = {}
    cut = 0
    # a span that fills a window by itself may be too long for the model, and is cut there, as any text is
    for alone in (True, False):
        places = [i for i, window in enumerate(windows) if (len(window.spans) == 1) is alone]
        options: dict[str, Any] = {} if alone else {"spans": [windows[i].spans for i in places]}
        try:
            encode: Any = model.encode
            made = encode(
                [windows[i].text for i in places], role="document", task=task, dim=dim, progress=progress, **options
            )
        except TextError as error:
            raise DataError(f"{windows[places[error.index]].document.where} {error.reason}") from None
        cut += model.truncated
        found |= {i: np.atleast_2d(vectors) for i, vectors in zip(places, made, strict=True)}
    owner = [window.document for window in windows for _ in window.spans]
    vectors = np.concatenate([found[i] for i in range(len(windows))]) if windows else np.empty((0, dim), np.float32)
    return _checked(vectors, owner, dim), cut


class _Window(NamedTuple):
    """Spans of a document that are read together."""

    document: Document
    text: str  # from the first to the last of them, with the title in front
    spans: list[Span]  # in it

    @classmethod
    def of(cls, document: Document, spans: Sequence[Span]) -> _Window:
        begin, end = spans[0][0], spans[-1][1]
        text = titled(document, document.text[begin:end])
        shift = len(text) - end
        inside = [(start + shift, stop + shift) for start, stop in spans]
        return cls(document, text, [(0, inside[0][1]), *inside[1:]])  # the first has the title, too


def _ranges(model: IndexModel, document: Document, spans: Sequence[Span]) -> list[tuple[int, int]]:
    """Ranges of spans that are read together."""
    title = titled(document, "")
    pieces = [document.text[slice(*span)] for span in spans]
    try:
        rows, _ = model.tokenizer.ids([*pieces, title, ""], max_tokens=_NO_LIMIT)
        [empty], _ = model.tokenizer.ids([""], prefix=model.spec.prompts["document"], max_tokens=_NO_LIMIT)
    except TextError as error:
        raise DataError(f"{document.where} {error.reason}") from None
    *lengths, of_title, special = (len(row) for row in rows)
    room = model.max_tokens - len(empty) - (of_title - special)
    windows, first, used = [], 0, 0
    for number, length in enumerate(lengths):
        length += 1 - special  # where a text is cut at other places, its parts have a token more or less
        if number > first and used + length > room:
            windows.append((first, number))
            first, used = number, 0
        used += length
    return [*windows, (first, len(spans))]


def _checked(vectors: np.ndarray, owner: Sequence[Document], dim: int) -> np.ndarray:
    """The engine would store vectors of NaN without a word, and half of a batch that holds another width."""
    if vectors.shape != (len(owner), dim):
        raise ConfigError(f"the model gave vectors of shape {vectors.shape} for {len(owner)} chunks of {dim} dims")
    lengths = np.linalg.norm(vectors, axis=1) if len(owner) else np.ones(0)
    bad = ~(np.isfinite(lengths) & (lengths > 0))
    if bad.any():
        where = owner[int(bad.argmax())].where
        raise DataError(f"{where} has a vector that is all zeros or not finite: look at its text, or leave it out")
    return vectors
