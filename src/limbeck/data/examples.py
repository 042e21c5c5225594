"""What one row of training data is: five frozen shapes, told apart by their class.

`teacher_*` is what the teacher reads in place of the text, for example the English original of a translation, so that
an English teacher makes a multilingual student (Reimers & Gurevych 2020). None = the teacher reads the same text.
`id` says where the example came from ("train.jsonl:17", "json.decoder.JSONDecoder"); it is not unique by contract.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text on its own."""

    id: str
    text: str
    lang: str | None = None  # BCP 47 tag, e.g. "de"
    teacher_text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledText(Text):
    """A text with one or many labels."""

    labels: tuple[str, ...]  # never empty


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A query and a document that answers it, or two texts that mean the same."""

    id: str
    query: str
    document: str
    lang: str | None = None
    teacher_query: str | None = None
    teacher_document: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Triplet(Pair):
    """A pair and documents that do not answer the query."""

    negatives: tuple[
        str, ...
    ]  # none equals the document; empty only where a held-out one lost those that training reads


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredPair(Pair):
    """A pair with a graded similarity, larger = more alike; the range is the source's."""

    score: float  # finite


Example: TypeAlias = Text | Pair | Triplet | ScoredPair | LabelledText
Role: TypeAlias = Literal["query", "document", "text"]
