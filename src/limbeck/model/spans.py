"""Spans of characters of a text, and the tokens that belong to each: what late chunking pools (2409.04701)."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral
from typing import TypeAlias

import numpy as np

from limbeck.errors import ConfigError, TextError
from limbeck.model.tokenizer import Placed

Span: TypeAlias = tuple[int, int]
"""Characters text[start:end]."""

_PARAGRAPH = re.compile(r"\n\s*\n\s*")
_PLACE_TO_CUT = re.compile(r"\s+|[。！？，；]\s*")  # after a space, or where a script without spaces pauses


def spans_of(text: str, *, max_chars: int = 2_000) -> list[Span]:
    """Cut a text into spans of whole paragraphs, as many as fit in `max_chars` characters.

    A longer paragraph is cut at its last space that fits; a word is never cut, however long. The spans follow each
    other without gaps from the first character to the last, so that every token belongs to one; none is only white
    space. A text of nothing else has no spans. Raises ConfigError: max_chars < 1.
    """
    if max_chars < 1:
        raise ConfigError(f"max_chars must be at least 1, got {max_chars}")
    begin, end = len(text) - len(text.lstrip()), len(text.rstrip())
    if begin >= end:
        return []
    paragraphs, places = (
        [m.end() for m in pattern.finditer(text) if begin < m.end() < end] for pattern in (_PARAGRAPH, _PLACE_TO_CUT)
    )
    cuts = [0]
    while end - cuts[-1] > max_chars:
        last = _last_between(paragraphs, cuts[-1], cuts[-1] + max_chars)
        last = last or _last_between(places, cuts[-1], cuts[-1] + max_chars)
        after = bisect_right(places, cuts[-1])
        if last is None and after == len(places):  # one word to the end
            break
        cuts.append(last or places[after])
    return list(pairwise([*cuts, len(text)]))


def check_spans(texts: Sequence[str], spans: Sequence[Sequence[Span]]) -> None:
    """Raise ConfigError, naming text and span, unless each text has a list of spans and each span holds a word."""
    if len(spans) != len(texts):
        raise ConfigError(f"spans are a list for each text: got {len(spans)} for {len(texts)} texts")
    for i, (text, of_text) in enumerate(zip(texts, spans, strict=True)):
        for j, span in enumerate(of_text):
            if not isinstance(span, Sequence) or len(span) != 2 or not all(isinstance(n, Integral) for n in span):
                raise ConfigError(f"text {i}, span {j}: expected (start, end) in characters, got {span!r}")
            start, end = span
            if isinstance(text, str) and not (0 <= start < end <= len(text) and text[start:end].strip()):
                raise ConfigError(
                    f"text {i}, span {j}: ({start}, {end}) {_fault(start, end, len(text))}; leave it out, or give one "
                    "that holds a word"
                )


def token_ranges(placed: Placed, spans: Sequence[Span], *, index: int, max_tokens: int) -> np.ndarray:
    """The tokens of each span: those that start in it.

    A span that starts at 0 has what stands before the text too (special tokens, the prefix), and one that ends with
    the text what comes after it: a span over the whole text has every token.

    Args:
        placed: the tokens of the text.
        spans: S of them, checked.
        index: of the text, for errors.
        max_tokens: where texts are cut, for errors.

    Returns:
        [S, 2] int64: first token, and one past the last. None is empty.

    Raises TextError: a span reaches over the cut, or no token starts in it.
    """
    starts, length = placed.starts, placed.starts[-1]
    ranges = np.empty((len(spans), 2), dtype=np.int64)
    for j, (start, end) in enumerate(spans):
        if end > placed.read:
            raise TextError(
                index,
                f"is cut at {max_tokens:,} tokens, after {placed.read:,} characters, and span {j}, ({start}, {end}), "
                "reaches further: give the rest as a text of its own, or leave the span out",
            )
        begin = 0 if start == 0 else np.searchsorted(starts, start)
        ranges[j] = begin, len(starts) if end == length else np.searchsorted(starts, end)
        if ranges[j, 0] >= ranges[j, 1]:
            raise TextError(index, f"has no token that starts in span {j}, ({start}, {end}): widen it to whole words")
    return ranges


def _last_between(places: list[int], start: int, stop: int) -> int | None:
    """The last of ascending places that is over `start` and not over `stop`."""
    found = bisect_right(places, stop) - 1
    return places[found] if found >= 0 and places[found] > start else None


def _fault(start: int, end: int, length: int) -> str:
    if not 0 <= start <= end <= length:
        return f"is not within the {length} characters of the text"
    return "is empty" if start == end else "is white space only"
