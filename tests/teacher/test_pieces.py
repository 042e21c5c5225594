"""Pieces of long texts: nothing is lost, none is over the limit, and together they give the mean worked out by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from limbeck.errors import TeacherError
from limbeck.teacher import pieces as module
from limbeck.teacher.pieces import Piece, Units, in_pieces, pieces, portions, token_counts, whole


def special(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """With a token before and one after every text."""
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    names = [(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=names)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def words() -> PreTrainedTokenizerFast:
    """A token a word."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return special(tokenizer)


def word_parts() -> PreTrainedTokenizerFast:
    """`nation` is n·ation, but `ation` at the beginning of a word is a·t·i·o·n."""
    letters = [mark + letter for mark in ("", "##") for letter in "nation"]
    vocab = {part: i for i, part in enumerate(dict.fromkeys(["[UNK]", *letters, "##ation"]))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return special(tokenizer)


def utf8_bytes() -> PreTrainedTokenizerFast:
    """A token a byte: a character may be up to four."""
    vocab = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return special(tokenizer)


TOKENIZERS = {"words": words(), "word parts": word_parts(), "bytes": utf8_bytes()}


def cut(text: str, kind: str, *, limit: int, overlap: int = 0, instruction: str = "") -> list[Piece]:
    return list(
        pieces(text, instruction=instruction, tokenizer=TOKENIZERS[kind], limit=limit, overlap=overlap, teacher="t")
    )


# --------------------------------------------------------------------------------------------- cutting


def test_a_piece_holds_as_many_tokens_as_the_teacher_reads():
    text = "a bb c dd e"  # and two special tokens
    assert cut(text, "words", limit=4) == [Piece(0, 5, 4, 2), Piece(5, 10, 4, 2), Piece(10, 11, 3, 1)]


def test_the_instruction_stands_in_front_of_every_piece_and_counts():
    assert cut("a bb c dd e", "words", limit=5, instruction="find: ") == [
        Piece(0, 2, 5, 1),  # <s> find : a </s>
        Piece(2, 5, 5, 1),
        Piece(5, 7, 5, 1),
        Piece(7, 10, 5, 1),
        Piece(10, 11, 5, 1),
    ]


def test_pieces_share_the_overlap_and_only_what_is_new_counts():
    assert cut("a b c d e f", "words", limit=5, overlap=1) == [
        Piece(0, 6, 5, 3),
        Piece(4, 10, 5, 2),  # c again, d and e
        Piece(8, 11, 4, 1),  # e again, and f
    ]


def test_the_rest_of_a_word_counts_what_it_takes_alone():
    text = "nnation"  # n, ##n, ##ation; but ation alone is a, ##t, ##i, ##o, ##n
    found = cut(text, "word parts", limit=4)
    assert [(text[p.begin : p.end], p.tokens) for p in found] == [("nn", 4), ("at", 4), ("io", 4), ("n", 3)]


def test_a_piece_that_takes_more_tokens_alone_than_in_the_text_is_shortened():
    tokenizer = _Longer(utf8_bytes(), ending="aa")  # two tokens in "aab", three alone
    found = pieces("aab", instruction="", tokenizer=tokenizer, limit=4, overlap=0, teacher="t")  # type: ignore[arg-type]
    assert [(p.begin, p.end) for p in found] == [(0, 1), (1, 3)]


class _Longer:
    """A tokenizer that gives a text with a certain ending one token more."""

    is_fast = True

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, ending: str) -> None:
        self._tokenizer, self._ending = tokenizer, ending

    def __call__(self, text: str, **settings: Any) -> dict[str, Any]:
        found = dict(self._tokenizer(text, **settings))
        if text.endswith(self._ending):
            found["offset_mapping"] = [*found["offset_mapping"], (len(text) - 1, len(text))]
        return found


def test_a_character_of_several_tokens_is_never_cut():
    assert [(p.begin, p.end, p.tokens) for p in cut("🙂🙂🙂", "bytes", limit=2 + 7)] == [
        (0, 1, 6),
        (1, 2, 6),
        (2, 3, 6),
    ]


def test_an_overlap_that_would_cut_a_character_is_smaller():
    found = cut("aé🙂", "bytes", limit=2 + 4, overlap=3)  # 1, 2 and 4 tokens
    assert [(p.begin, p.end, p.new) for p in found] == [(0, 2, 3), (2, 3, 4)]  # é and 🙂 do not fit together


def test_one_token_of_many_characters_is_one_piece_with_what_follows_it():
    long = "x" * 100_000
    found = cut(f"{long} a b c", "words", limit=4)
    assert found == [Piece(0, 100_003, 4, 2), Piece(100_003, 100_006, 4, 2)]


@settings(deadline=None, max_examples=150)
@given(
    text=st.text(st.sampled_from("nation xé🙂漢\n\t.") | st.characters(exclude_categories=["Cs"]), max_size=80),
    kind=st.sampled_from(sorted(TOKENIZERS)),
    room=st.integers(4, 12),
    overlap=st.integers(0, 3),
    instruction=st.sampled_from(["", "n: ", "nat"]),
)
def test_pieces_are_within_the_limit_and_hold_every_character(text, kind, room, overlap, instruction):
    tokenizer = TOKENIZERS[kind]
    limit = int(token_counts([""], instruction, tokenizer)[0]) + room
    found = cut(text, kind, limit=limit, overlap=overlap, instruction=instruction)
    held = token_counts([text[p.begin : p.end] for p in found], instruction, tokenizer)
    assert [p.tokens for p in found] == held.tolist()
    assert all(p.tokens <= limit and p.new >= 1 for p in found)
    assert all(a.begin < b.begin <= a.end < b.end for a, b in pairwise(found))
    assert not text or (found[0].begin == 0 and found[-1].end == len(text))


def test_of_a_long_text_only_a_stretch_at_a_time_is_tokenised():
    seen = []

    class Counting(_Longer):
        def __call__(self, text: str, **settings: Any) -> dict[str, Any]:
            seen.append(len(text))
            return super().__call__(text, **settings)

    tokenizer = Counting(words(), ending="never")
    found = list(pieces("one two " * 2500, instruction="", tokenizer=tokenizer, limit=52, overlap=2, teacher="t"))  # type: ignore[arg-type]
    assert max(seen) <= 8 * 52
    assert sum(p.new for p in found) == 5000
    assert sum(seen) < 4 * 20_000  # every character is looked at a few times, however many pieces there are


# ------------------------------------------------------------------------------------------- refusals


def test_an_instruction_that_leaves_no_room_for_more_than_the_overlap_is_refused():
    with pytest.raises(TeacherError, match=r"reads 6 tokens, 4 of them are the instruction .* pieces share 2: raise"):
        cut("a b c d e", "words", limit=6, overlap=2, instruction="find : ")


def test_a_character_that_does_not_fit_at_all_is_refused():
    with pytest.raises(
        TeacherError, match=r"reads 5 tokens, too few for the character at the beginning of '\\U0001f642b"
    ):
        cut("a🙂b", "bytes", limit=5)


def test_a_tokenizer_that_does_not_say_where_its_tokens_are_is_refused(monkeypatch):
    tokenizer = words()
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    with pytest.raises(TeacherError, match="does not say where in a text its tokens are"):
        next(pieces("a b c", instruction="", tokenizer=tokenizer, limit=4, overlap=0, teacher="t"))


# ------------------------------------------------------------------------------------------ combining


def test_the_mean_counts_each_piece_by_its_new_tokens_and_has_length_one():
    units = Units(["s", "p", "q", "t"], np.ones(4), np.array([0, 1, 1, 2]), np.array([9, 3, 1, 9]))
    vectors = np.array([[0.6, 0.8], [1, 0], [0, 1], [0, -1]], np.float32)
    combined = units.combine(vectors, teacher="t")
    assert combined.dtype == np.float32
    np.testing.assert_array_equal(combined[[0, 2]], vectors[[0, 3]])  # whole texts: to the bit
    np.testing.assert_allclose(combined[1], np.array([3, 1]) / np.sqrt(10), rtol=1e-6)


@pytest.mark.parametrize("second", [[-1.0, 0.0], [float("nan"), 0.0]])
def test_pieces_without_a_mean_direction_are_refused_by_the_number_of_the_text(second):
    units = Units(["s", "the beginning", "and the end"], np.ones(3), np.array([0, 1, 1]), np.array([1, 4, 4]))
    vectors = np.array([[0, 1], [1, 0], second], np.float32)
    with pytest.raises(TeacherError, match="2 pieces of text 1, 'the beginning', cancel each other out"):
        units.combine(vectors, teacher="t")


def test_progress_is_in_texts_and_a_text_is_done_with_its_last_piece():
    units = Units(list("apqb"), np.ones(4), np.array([0, 1, 1, 2]), np.ones(4))
    steps: list[int] = []
    read = units.progress(steps.append)
    for batch in ([2, 3], [0], [1]):
        read(np.array(batch))
    assert steps == [1, 1, 1]


def test_short_texts_stay_whole_among_long_ones():
    texts = ["a b c", "a", "", "d e"]
    lengths = np.array([5, 3, 2, 4])
    units = in_pieces(texts, lengths, lengths > 4, lambda text: cut(text, "words", limit=4))
    assert list(units.texts) == ["a b ", "c", "a", "", "d e"]
    assert units.owners.tolist() == [0, 0, 1, 2, 3]
    assert units.lengths.tolist() == [4, 3, 3, 2, 4]
    assert units.weights[:2].tolist() == [2, 1]
    plain = whole(texts, lengths)
    assert list(plain.texts) == texts and plain.owners.tolist() == [0, 1, 2, 3]


# ------------------------------------------------------------------------------------------- counting


def test_counts_do_not_depend_on_how_many_texts_are_counted_at_once(monkeypatch):
    texts = ["a b", "c " * 50, "", "d e f"]
    at_once = token_counts(texts, "find: ", words())
    monkeypatch.setattr(module, "_CHARS_AT_ONCE", 1)
    assert at_once.tolist() == token_counts(texts, "find: ", words()).tolist() == [6, 54, 4, 7]


def test_portions_end_at_so_many_texts_or_characters():
    texts = ["aaa", "b", "cc", "d", "e", "f", "gggggg", "h"]
    found = [part.tolist() for part in portions(np.arange(8), texts, 3, 4)]
    assert found == [[0, 1], [2, 3, 4], [5], [6], [7]]
