"""One row of a file (a mapping of fields) → one typed example, or the reason why it is malformed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from limbeck.config import Columns
from limbeck.data.dedup import normalise
from limbeck.data.examples import Example, LabelledText, Pair, ScoredPair, Text, Triplet

Row = Mapping[str, Any]


class Malformed(ValueError):
    """A row that cannot become an example; the message is the reason, without file and line.

    Readers yield it in place of a row, because a generator that raises cannot go on to the next row.
    """


def row_reader(
    columns: Columns, *, lang: str | None, score_range: tuple[float, float] | None
) -> Callable[[str, Row], Example]:
    """Return the function (id, row) → example that `columns` describes; that function raises Malformed."""

    def pair_fields(identity: str, row: Row) -> dict[str, Any]:
        assert columns.query and columns.document
        return {
            "id": identity,
            "query": _text(row, columns.query),
            "document": _titled(row, columns.title, _text(row, columns.document)),
            "lang": _lang(row, columns.lang, lang),
            "teacher_query": _teacher_text(row, columns.teacher_query),
            "teacher_document": _teacher_text(row, columns.teacher_document),
        }

    def text_fields(identity: str, row: Row) -> dict[str, Any]:
        assert columns.text
        return {
            "id": identity,
            "text": _titled(row, columns.title, _text(row, columns.text)),
            "lang": _lang(row, columns.lang, lang),
            "teacher_text": _teacher_text(row, columns.teacher_text),
        }

    def triplet(identity: str, row: Row) -> Triplet:
        fields = pair_fields(identity, row)
        positives = {fields["document"], row[columns.document or ""]}  # with its title and without
        return Triplet(**fields, negatives=_negatives(row, _names(columns.negatives), positives))

    def scored(identity: str, row: Row) -> ScoredPair:
        assert columns.score
        return ScoredPair(**pair_fields(identity, row), score=_score(row, columns.score, score_range))

    def labelled(identity: str, row: Row) -> LabelledText:
        return LabelledText(**text_fields(identity, row), labels=_labels(row, _names(columns.labels)))

    if columns.text:
        return labelled if columns.labels else lambda identity, row: Text(**text_fields(identity, row))
    if columns.score:
        return scored
    return triplet if columns.negatives else lambda identity, row: Pair(**pair_fields(identity, row))


def mapped_fields(columns: Columns) -> list[str]:
    """Every field that `columns` names, each once, in the order of the model."""
    named = [name for value in columns.model_dump().values() for name in _names(value)]
    return list(dict.fromkeys(named))


def _names(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


def _field(row: Row, name: str) -> Any:
    if name not in row:
        raise Malformed(f"no field {name!r}, the row has {', '.join(map(repr, row)) or 'none'}")
    return row[name]


def _text(row: Row, name: str) -> str:
    return checked_text(_field(row, name), name)


def checked_text(value: Any, name: str) -> str:
    """Return `value` when it is a text that can be stored and encoded; raises Malformed with the reason."""
    if not isinstance(value, str):
        raise Malformed(f"{name!r} is {_describe(value)}, expected a text")
    if not value or value.isspace():
        raise Malformed(f"{name!r} is empty")
    if "\x00" in value:
        raise Malformed(f"{name!r} holds a NUL character")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise Malformed(f"{name!r} holds a lone surrogate, U+{ord(value[error.start]):04X}") from None
    return value


def _titled(row: Row, name: str | None, document: str) -> str:
    title = row.get(name) if name else None
    if title is None or (isinstance(title, str) and not title.strip()):
        return document
    return f"{checked_text(title, name or 'title').strip()}. {document}"


def _lang(row: Row, name: str | None, default: str | None) -> str | None:
    tag = row.get(name) if name else None
    if tag is None or (isinstance(tag, str) and not tag.strip()):
        return default
    return checked_text(tag, name or "lang").strip()


def _teacher_text(row: Row, name: str | None) -> str | None:
    # null says "the teacher reads the same text"; an empty string is a hole in the data, which would be taught silently
    return None if name is None or _field(row, name) is None else _text(row, name)


def _negatives(row: Row, names: list[str], positives: set[str]) -> tuple[str, ...]:
    values: list[Any] = []
    for name in names:
        value = _field(row, name)
        if isinstance(value, (list, tuple)):
            values += [(name, v) for v in value]
        elif value is not None and value != "":  # of several columns, the last ones are often empty
            values.append((name, value))
    if not values:
        raise Malformed(f"no negatives in {' or '.join(map(repr, names))}")
    texts = tuple(checked_text(value, name) for name, value in values)
    if not {normalise(text) for text in positives}.isdisjoint(normalise(text) for text in texts):
        raise Malformed("a negative equals the document")
    return texts


def _labels(row: Row, names: list[str]) -> tuple[str, ...]:
    labels: list[str] = []
    for name in names:
        value = _field(row, name)
        for label in value if isinstance(value, (list, tuple)) else [value]:
            if label is None or (label == "" and len(names) > 1):
                continue
            # class numbers are labels too; True is an int to Python, and not a class number
            is_number = isinstance(label, int) and not isinstance(label, bool)
            labels.append(str(label) if is_number else checked_text(label, name).strip())
    if not labels:
        raise Malformed(f"no labels in {' or '.join(map(repr, names))}")
    return tuple(dict.fromkeys(labels))


def _score(row: Row, name: str, score_range: tuple[float, float] | None) -> float:
    value = _field(row, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Malformed(f"{name!r} is {_describe(value)}, expected a number")
    try:
        score = float(value)
    except OverflowError:
        score = math.inf
    if not math.isfinite(score):
        raise Malformed(f"{name!r} is {value!r:.40}, expected a finite number")
    if score_range is not None and not score_range[0] <= score <= score_range[1]:
        raise Malformed(f"{name!r} is {score:g}, outside the declared range {score_range[0]:g} to {score_range[1]:g}")
    return score


def _describe(value: Any) -> str:
    return "null" if value is None else f"{value!r:.40} ({type(value).__name__})"
