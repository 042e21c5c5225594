"""Spans of a text: how one is cut into them, and which tokens belong to which."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import byte_level, wordpiece

from limbeck.errors import ConfigError, TextError
from limbeck.model.spans import check_spans, spans_of, token_ranges
from limbeck.model.tokenizer import Placed, Tokenizer

# ------------------------------------------------------------------------------------- cutting a text


def parts(text: str, max_chars: int) -> list[str]:
    return [text[start:end] for start, end in spans_of(text, max_chars=max_chars)]


def test_paragraphs_are_put_together_as_many_as_fit() -> None:
    text = "one two.\n\nthree.\n\n  four five six seven.\n \neight.\n"
    assert parts(text, 60) == [text]
    assert parts(text, 20) == ["one two.\n\nthree.\n\n  ", "four five six ", "seven.\n \neight.\n"]
    assert parts(text, 23) == ["one two.\n\nthree.\n\n  ", "four five six seven.\n \n", "eight.\n"]


def test_a_long_paragraph_is_cut_between_words_and_a_long_word_is_not_cut() -> None:
    assert parts("aa bb cc dd", 5) == ["aa ", "bb ", "cc dd"]
    assert parts("aa bb cc dd", 6) == ["aa bb ", "cc dd"]
    assert parts("a" * 50 + " b c", 5) == ["a" * 50 + " ", "b c"]
    assert parts("b c " + "a" * 50, 5) == ["b c ", "a" * 50]
    assert parts("日本語。テキスト、です", 6) == ["日本語。", "テキスト、です"]


@given(st.text(st.sampled_from("ab \n\t。é🙂"), max_size=80), st.integers(1, 30))
def test_spans_cover_a_text_without_gaps_and_each_holds_a_word(text: str, max_chars: int) -> None:
    found = parts(text, max_chars)
    assert "".join(found) == (text if text.strip() else "")
    assert all(part.strip() for part in found)
    check_spans([text], [spans_of(text, max_chars=max_chars)])
    too_long = [part.strip() for part in found if len(part.strip()) > max_chars]
    assert not any(re.search(r"\s|。(?!$)", part) for part in too_long)


def test_a_width_below_one_character_is_an_error() -> None:
    with pytest.raises(ConfigError, match="max_chars must be at least 1, got 0"):
        spans_of("text", max_chars=0)


# ---------------------------------------------------------------------------------------- bad spans


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ((3, 3), r"text 1, span 1: \(3, 3\) is empty"),
        ((1, 2), r"text 1, span 1: \(1, 2\) is white space only"),
        ((-1, 2), r"text 1, span 1: \(-1, 2\) is not within the 3 characters of the text"),
        ((0, 4), "is not within the 3 characters"),
        ((2, 1), "is not within the 3 characters"),
        ((4, 4), "is not within the 3 characters"),
        ((1,), r"text 1, span 1: expected \(start, end\) in characters, got \(1,\)"),
        (7, r"expected \(start, end\) in characters, got 7"),
        ((0.0, 1.0), "expected"),
        ("ab", "expected"),
    ],
)
def test_a_span_that_holds_no_word_of_its_text_is_an_error_that_names_both(span, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_spans(["abc", "a b"], [[(0, 3)], [(0, 1), span]])


def test_spans_are_a_list_for_each_text() -> None:
    with pytest.raises(ConfigError, match="spans are a list for each text: got 1 for 2 texts"):
        check_spans(["a", "b"], [[(0, 1)]])
    check_spans(["a b", "b"], [[(2, 3), (0, 3), (0, 1), (0, 1)], []])  # unsorted, over each other, none


# ------------------------------------------------------------------------------------- their tokens

TEXT = "join  two tables 🙂 now\n"


def tokens_of(tokenizer: Tokenizer, text: str, span: tuple[int, int], prefix: str = "Query: ") -> list[int]:
    [placed] = tokenizer.placed([text], prefix=prefix, max_tokens=100)
    [(begin, end)] = token_ranges(placed, [span], index=0, max_tokens=100)
    return placed.ids[begin:end].tolist()


@pytest.mark.parametrize("kind", [wordpiece, byte_level])
def test_the_tokens_of_a_word_are_those_it_has_by_itself(kind) -> None:
    tokenizer = Tokenizer(kind())
    for word in ("two", "tables", "🙂", "now"):
        start = TEXT.index(word)
        found = tokens_of(tokenizer, TEXT, (start, start + len(word)))
        alone = tokenizer.hf(word, add_special_tokens=False).input_ids
        assert tokenizer.hf.decode(found).strip() == tokenizer.hf.decode(alone).strip()
    whole = tokenizer.hf("Query: " + TEXT).input_ids
    assert tokens_of(tokenizer, TEXT, (0, len(TEXT))) == whole
    middle = TEXT.index("two")
    assert tokens_of(tokenizer, TEXT, (0, middle)) + tokens_of(tokenizer, TEXT, (middle, len(TEXT))) == whole


@given(st.text(st.characters(codec="utf-8"), max_size=40).map(lambda text: text + " end"), st.integers(1, 20))
def test_spans_that_cover_a_text_share_its_tokens_out(text: str, max_chars: int) -> None:
    tokenizer = Tokenizer(byte_level())
    [placed] = tokenizer.placed([text], prefix="Document: ", max_tokens=1000)
    assert placed.ids.tolist() == tokenizer.hf("Document: " + text).input_ids
    ranges = token_ranges(placed, spans_of(text, max_chars=max_chars), index=0, max_tokens=1000)
    assert ranges[0, 0] == 0 and ranges[-1, 1] == len(placed.ids)
    assert np.array_equal(ranges[1:, 0], ranges[:-1, 1])


def test_a_span_within_a_token_is_an_error_that_names_it() -> None:
    tokenizer = Tokenizer(wordpiece())
    unknown = "x" * 200  # one token for all of it
    with pytest.raises(TextError, match=r"text 0 has no token that starts in span 0, \(5, 9\): widen it"):
        tokens_of(tokenizer, unknown + " now", (5, 9))


def test_a_span_over_the_cut_is_an_error_that_names_text_and_span() -> None:
    tokenizer = Tokenizer(wordpiece())
    text = "join two tables " * 3
    [placed] = tokenizer.placed([text], max_tokens=5)
    kept = text[: placed.read]
    assert tokenizer.hf(kept).input_ids == placed.ids.tolist() and len(placed.ids) == 5
    assert token_ranges(placed, [(0, placed.read), (5, 8)], index=3, max_tokens=5)[0].tolist() == [0, 4]
    for span in ((5, placed.read + 1), (0, len(text)), (len(text) - 5, len(text))):
        with pytest.raises(
            TextError, match=rf"text 3 is cut at 5 tokens, after \d+ characters, and span 1, \({span[0]}, "
        ):
            token_ranges(placed, [(0, 4), span], index=3, max_tokens=5)


def test_a_text_without_spans_has_no_ranges() -> None:
    placed = Placed(np.array([1, 2]), np.array([-1, 0]), 0)
    assert token_ranges(placed, [], index=0, max_tokens=9).shape == (0, 2)
