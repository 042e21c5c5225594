"""Texts → rows: the limit, which end is lost, and texts that are read as one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.serve.errors import TOO_LONG, Refusal
from limbeck.serve.tokens import joined, late_rows, rows_of

LONG = "how do i join two tables on a key column " * 6


def of(encoder: Any, texts: list[str], long: Any, prefix: str = "Query: ", max_tokens: int = 20) -> list[list[int]]:
    return [
        row.ids.tolist() for row in rows_of(encoder.tokenizer, texts, prefix=prefix, max_tokens=max_tokens, long=long)
    ]


def test_tokens_are_the_encoder_s(encoder: Any) -> None:
    expected, _ = encoder.tokenizer.ids(["a key", LONG], prefix="Query: ", max_tokens=20)
    assert of(encoder, ["a key", LONG], "end") == [ids.tolist() for ids in expected]


def test_a_text_over_the_limit_is_refused_by_its_place(encoder: Any) -> None:
    with pytest.raises(Refusal, match=r"text 1 has \d+ tokens, over the limit of 20") as refusal:
        of(encoder, ["a key", LONG], "refuse")
    assert (refusal.value.status, refusal.value.code) == (400, TOO_LONG)
    assert of(encoder, ["a key"], "refuse") == of(encoder, ["a key"], "end")


def test_a_text_that_loses_its_start_keeps_its_prefix_its_end_and_the_closing_token(encoder: Any) -> None:
    [whole] = of(encoder, [LONG], "refuse", max_tokens=1_000)
    head = encoder.tokenizer.ids(["Query: "], max_tokens=99)[0][0].tolist()[:-1]
    [cut] = of(encoder, [LONG], "start")
    assert len(cut) == 20 and cut == head + whole[-(20 - len(head)) :]
    assert of(encoder, ["a key"], "start") == of(encoder, ["a key"], "end")


def test_a_lone_surrogate_is_refused_and_not_quoted(encoder: Any) -> None:
    for long in ("end", "refuse"):
        with pytest.raises(Refusal, match="text 1 is not valid Unicode") as refusal:
            of(encoder, ["a", "secret \ud800"], long)
        assert refusal.value.status == 422 and "secret" not in refusal.value.message


@given(st.lists(st.text("ab \n", max_size=4), max_size=6))
def test_texts_read_as_one_are_where_it_is_said_and_no_two_words_grow_together(texts: list[str]) -> None:
    text, spans = joined(texts)
    assert [text[begin:end] for begin, end in spans] == texts
    assert text.split() == " ".join(texts).split()


def test_late_chunking_gives_the_vectors_of_spans(encoder: Any) -> None:
    texts = ["split the string", "two tables on a key"]
    [row] = late_rows(encoder.tokenizer, texts, prefix="Document: ", max_tokens=32)
    shares, _ = encoder.chosen("retrieval")
    [found] = encoder.encode_rows([row.ids], shares, ranges=[row.ranges])
    text, spans = joined(texts)
    expected = encoder.encode(text, task="retrieval", spans=spans)
    np.testing.assert_allclose(found / np.linalg.norm(found, axis=1, keepdims=True), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("texts", "status", "message"),
    [([LONG, "a"], 400, "late chunking reads the texts as one"), (["a", " \n"], 422, "text 1 holds no word")],
)
def test_late_chunking_says_what_it_cannot_read(encoder: Any, texts: list[str], status: int, message: str) -> None:
    with pytest.raises(Refusal, match=message) as refusal:
        late_rows(encoder.tokenizer, texts, prefix="", max_tokens=32)
    assert refusal.value.status == status
