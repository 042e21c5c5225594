"""Documents to index: an id, a text, a title if there is one, and fields to filter by."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limbeck.errors import ConfigError, DataError
from limbeck.search.conditions import Kind, check_field_name, kind_of
from limbeck.search.corpus import ID_FIELDS, load_corpus

_CASTS = {"text": str, "integer": int, "number": float}


@dataclass(frozen=True, slots=True)
class Document:
    """What is indexed, and comes back when it is found. Ids tell documents apart: one that comes again is an update."""

    id: str
    text: str
    title: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Text, whole numbers, numbers or booleans, or lists of them, are filtered by; all else is kept only."""
    place: str = ""  # where it comes from, for messages

    @property
    def where(self) -> str:
        """What messages call it."""
        return self.place or f"document {self.id!r}"

    def digest(self) -> str:
        """16 hex digits that change when any of it does."""
        body = json.dumps([self.text, self.title, dict(self.fields)], ensure_ascii=True, sort_keys=True, default=str)
        return hashlib.sha256(body.encode()).hexdigest()[:16]


def checked(documents: Iterable[Document]) -> Iterator[Document]:
    """The documents, one after the other. Raises DataError that names the first that cannot be indexed.

    That is: an id or text that is no text or empty, an id that occurs twice, fields that JSON does not know.
    """
    seen: set[str] = set()
    for document in documents:
        where = document.where
        for what, value in (("id", document.id), ("text", document.text)):
            if not isinstance(value, str) or not value.strip():
                raise DataError(f"{where}: its {what} is {value!r:.40}, expected a text that is not empty")
        if document.id in seen:
            raise DataError(f"{where}: id {document.id!r} occurs a second time: ids must be unique in what is added")
        seen.add(document.id)
        for name, value in document.fields.items():
            check_field_name(name, where)
            try:
                json.dumps(value, allow_nan=False).encode()
            except (TypeError, ValueError, RecursionError) as error:
                raise DataError(f"{where}: field {name!r} cannot be written as JSON ({error}): leave it out") from None
        yield document


def kinds_of(document: Document) -> dict[str, Kind]:
    """What its fields hold; those with null or an empty list are left out."""
    found: dict[str, Kind] = {}
    for name, value in document.fields.items():
        if (kind := kind_of(value)) is not None:
            found[name] = kind
    return found


def read_documents(
    spec: str | Path, *, fields: Sequence[str] | None = None, cache_dir: Path | None = None
) -> Iterator[Document]:
    """Documents of a corpus, file rows one at a time.

    Args:
        spec: as `load_corpus` takes it, a file may be larger than memory; or "-", JSON lines on standard input.
        fields: of a file, those to keep beside id, text and title: names, or NAME:KIND where a column is to be read as
            integer, number or text (CSV holds only texts). None = all.
        cache_dir: as in `load_corpus`.

    Raises DataError as `load_corpus`, and for a row without these fields; ConfigError for another kind.
    """
    from limbeck.data.sources import located_json, located_rows

    path = Path(spec).expanduser()
    if spec == "-" or path.is_file():
        rows = located_json(sys.stdin.buffer, "standard input") if spec == "-" else located_rows(path)
        yield from _of_rows(rows, "standard input" if spec == "-" else str(path), fields)
        return
    if fields:
        raise ConfigError(f"fields are those of a file, and {spec} is none: leave them out, or give a file")
    corpus = load_corpus(spec, cache_dir=cache_dir)
    times: Counter[str] = Counter()  # ids of a corpus that is no file may repeat: one object under two paths
    for identity, text in zip(corpus.ids, corpus.documents, strict=True):
        times[identity] += 1
        yield Document(identity if times[identity] == 1 else f"{identity}#{times[identity]}", text)


def _of_rows(
    rows: Iterable[tuple[str, Mapping[str, Any]]], name: str, fields: Sequence[str] | None
) -> Iterator[Document]:
    from limbeck.data.rows import Malformed, checked_text

    wanted = None if fields is None else dict(_wanted(field) for field in fields)
    empty = True
    for place, row in rows:
        empty = False
        id_field = next((name for name in ID_FIELDS if name in row), None)
        if id_field is None or "text" not in row:
            have = ", ".join(row) or "none"
            raise DataError(f"{place}: a document needs the fields id and text (title is optional), it has {have}")
        try:
            text = checked_text(row["text"], "text")
            title = checked_text(row["title"], "title") if (row.get("title") or "") != "" else ""
            identity = row[id_field]
            whole = isinstance(identity, int) and not isinstance(identity, bool)
            identity = str(identity) if whole else checked_text(identity, id_field)
            others = {name: value for name, value in row.items() if name not in (id_field, "text", "title")}
            if wanted is not None:
                if missing := [name for name in wanted if name not in others]:
                    raise Malformed(f"no field {missing[0]!r}, the row has {', '.join(row)}")
                others = {name: _cast(others[name], name, kind) for name, kind in wanted.items()}
        except Malformed as error:
            raise DataError(f"{place}: {error}: mend the row or take it out") from None
        yield Document(identity, text, title, others, place)
    if empty:
        raise DataError(f"{name} holds no documents")


def _wanted(text: str) -> tuple[str, str | None]:
    name, _, kind = text.partition(":")
    if kind and kind not in _CASTS:
        raise ConfigError(f"a field is read as one of {', '.join(_CASTS)}, got {text!r}")
    return name, kind or None


def _cast(value: Any, name: str, kind: str | None) -> Any:
    from limbeck.data.rows import Malformed

    if kind is None or value is None or value == "":
        return value if kind is None else None
    try:
        return _CASTS[kind](value)
    except (ValueError, TypeError):
        raise Malformed(f"{name!r} is {value!r:.40}, expected {kind}") from None
