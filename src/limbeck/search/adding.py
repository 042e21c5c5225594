"""How documents get into an index: what is new among them, their fields, their chunks as points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

from limbeck.search.chunks import Chunk, IndexModel, chunks_of, titled
from limbeck.search.conditions import Kind, flag, joined_kind, payload_key
from limbeck.search.documents import Document, kinds_of
from limbeck.search.engine import Engine, Point, point_id
from limbeck.search.spec import Chunks, IndexSpec

if TYPE_CHECKING:
    from limbeck.search.words import Words


@dataclass(slots=True)
class Added:
    """What `Index.add` did, in documents."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    chunks: int = 0  # stored
    truncated: int = 0  # chunks that the model cut
    ids: set[str] = field(default_factory=set, repr=False)  # of all that came

    def as_dict(self) -> dict[str, int]:
        """The counts."""
        return {name: getattr(self, name) for name in ("added", "updated", "unchanged", "chunks", "truncated")}


def add_batch(
    engine: Engine, model: IndexModel, words: Words | None, documents: Sequence[Document], report: Added
) -> None:
    """Encode and store documents, those that are there unchanged left out, and count them in the report."""
    digests = [document.digest() for document in documents]
    points = [point_id(document.id, 0) for document in documents]
    there = engine.payloads(points, ["digest", "chunks"])
    changed, before = [], {}
    for document, digest, point in zip(documents, digests, points, strict=True):
        known = there.get(point)
        if known is not None and known.get("digest") == digest:
            report.unchanged += 1
            continue
        changed.append((document, digest))
        if known is not None:
            before[document.id] = int(known["chunks"])
    if not changed:
        return
    _learn_fields(engine, [document for document, _ in changed])
    spec, digest_of = engine.spec, {document.id: digest for document, digest in changed}
    made, truncated = chunks_of(
        model,
        [document for document, _ in changed],
        how=spec.chunks,
        max_chars=spec.chunk_chars,
        task=spec.encoding_task,
        dim=spec.dim,
    )
    # The rest of a longer one that was there goes first, and the first chunk, whose digest says that a document is
    # complete, comes last: killed in between, the document is seen to be an old one when it comes again.
    stale = [point_id(chunk.document.id, n) for chunk in made for n in _stale(chunk, before)]
    if stale:
        engine.delete_ids(stale)
    ready = [_point(chunk, digest_of[chunk.document.id], words) for chunk in made]
    engine.upsert(sorted(ready, key=lambda point: point.payload["chunk"] == 0))
    report.updated += len(before)
    report.added += len(changed) - len(before)
    report.chunks += len(made)
    report.truncated += truncated


def _learn_fields(engine: Engine, documents: Sequence[Document]) -> None:
    """Fields that are new, or hold more than they did, are written down before the documents are."""
    kinds = dict(engine.spec.fields)
    for document in documents:
        for name, kind in kinds_of(document).items():
            kinds[name] = joined_kind(name, kinds.get(name), kind, document.where)
    if kinds == engine.spec.fields:
        return
    keys: dict[str, Kind] = {}
    for name, kind in kinds.items():
        if kind != "other" and kind != engine.spec.fields.get(name):
            keys[payload_key(name, kind)] = kind
    engine.add_fields(keys)
    engine.write_spec(engine.spec.with_fields(kinds))


def _point(chunk: Chunk, digest: str, words: Words | None) -> Point:
    document = chunk.document
    payload: dict[str, Any] = {
        "id": document.id,
        "digest": digest,
        "chunk": chunk.number,
        "chunks": chunk.of,
        "start": chunk.span[0],
        "end": chunk.span[1],
        "text": chunk.text,
        "title": document.title,
        "fields": dict(document.fields),
    }
    flags = {name: _flags(document.fields[name]) for name, kind in kinds_of(document).items() if kind == "boolean"}
    if flags:
        payload["flags"] = flags
    weights = words.document(titled(document, chunk.text)) if words is not None else None
    return Point(point_id(document.id, chunk.number), chunk.vector, weights, payload)


def _stale(chunk: Chunk, before: Mapping[str, int]) -> range:
    """Numbers of chunks that the document had and has no more; told once, by its first chunk."""
    return range(chunk.of, before.get(chunk.document.id, 0)) if chunk.number == 0 else range(0)


def _flags(value: Any) -> list[str]:
    return [flag(v) for v in (value if isinstance(value, (list, tuple)) else [value])]


def sampled_average(sample: Sequence[Document], chunks: Chunks, chunk_chars: int, language: str | None) -> float:
    """Words that a chunk has on average, by some documents; without them 256."""
    from limbeck.model.spans import spans_of
    from limbeck.search.words import average_words

    if not sample:
        return 256.0
    texts = chain.from_iterable(
        [d.text] if chunks == "none" else [d.text[slice(*s)] for s in spans_of(d.text, max_chars=chunk_chars)]
        for d in sample
    )
    return average_words(list(texts), language)


def words_of(spec: IndexSpec) -> Words | None:
    """What makes words of texts; None for an index without them."""
    if not spec.words:
        return None
    from limbeck.search.words import Words

    return Words(language=spec.language, average=spec.average_words)
