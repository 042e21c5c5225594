"""Texts of a request → rows of tokens: counted, cut where that is wanted, refused where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from limbeck.errors import TextError
from limbeck.model.spans import Span, token_ranges
from limbeck.serve.batching import Row
from limbeck.serve.errors import TOO_LONG, Refusal

Long: TypeAlias = Literal["refuse", "end", "start"]
"""What becomes of a text over the limit: no answer, or it loses its end, or its start."""

_NO_LIMIT = 2**40


def rows_of(tokenizer: Any, texts: Sequence[str], *, prefix: str, max_tokens: int, long: Long) -> list[Row]:
    """Tokens of texts, each with the prefix before it and the closing token behind, however it is cut.

    Args:
        tokenizer: `Encoder.tokenizer`.
        texts: of one request.
        prefix: of their task and role.
        max_tokens: of a text, all counted.
        long: what to do about more.

    Raises Refusal: a text is too long, or no valid Unicode.
    """
    try:
        whole, _ = tokenizer.ids(texts, prefix=prefix, max_tokens=_NO_LIMIT if long != "end" else max_tokens)
    except TextError as error:
        raise Refusal(422, "invalid_text", str(error), param="input") from None
    over = [i for i, ids in enumerate(whole) if len(ids) > max_tokens]
    if over and long == "refuse":
        raise _too_long(over[0], len(whole[over[0]]), max_tokens)
    for i in over:
        whole[i] = _without_start(tokenizer, texts[i], prefix, max_tokens)
    return [Row(ids) for ids in whole]


def late_rows(tokenizer: Any, texts: Sequence[str], *, prefix: str, max_tokens: int) -> list[Row]:
    """The texts as one, whose parts get a vector each (late chunking).

    Raises Refusal: together they are too long, or one is only white space, or no valid Unicode.
    """
    text, spans = joined(texts)
    if blank := [i for i, each in enumerate(texts) if not each.strip()]:
        raise Refusal(
            422, "invalid_text", f"text {blank[0]} holds no word, so it gets no vector of its own: leave it out"
        )
    try:
        [placed] = tokenizer.placed([text], prefix=prefix, max_tokens=_NO_LIMIT)
        if len(placed.ids) > max_tokens:
            raise Refusal(
                400,
                TOO_LONG,
                f"late chunking reads the texts as one; together they have {len(placed.ids):,} tokens, over the "
                f"limit of {max_tokens:,}: send fewer at a time",
                param="input",
            )
        return [Row(placed.ids, token_ranges(placed, spans, index=0, max_tokens=max_tokens))]
    except TextError as error:
        raise Refusal(422, "invalid_text", f"the texts as one: {error.reason}", param="input") from None


def joined(texts: Sequence[str]) -> tuple[str, list[Span]]:
    """One text, and where in it each text is. Where two words would meet, a space comes between."""
    text, spans = "", []
    for each in texts:
        if text and not text[-1].isspace() and each and not each[0].isspace():
            text += " "
        spans.append((len(text), len(text) + len(each)))
        text += each
    return text, spans


def _without_start(tokenizer: Any, text: str, prefix: str, max_tokens: int) -> np.ndarray:
    """The last tokens of a text, behind what always stands before a text."""
    [placed] = tokenizer.placed([text], prefix=prefix, max_tokens=_NO_LIMIT)
    head = placed.ids[placed.starts < 0]
    return np.concatenate([head, placed.ids[len(placed.ids) - (max_tokens - len(head)) :]])


def _too_long(index: int, tokens: int, limit: int) -> Refusal:
    message = f"text {index} has {tokens:,} tokens, over the limit of {limit:,}: shorten it, or ask for it to be cut"
    return Refusal(400, TOO_LONG, message, param="input")
