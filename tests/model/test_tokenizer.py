"""Every text ends with the closing token, in limbeck and in whatever else loads the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import byte_level, wordpiece
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from limbeck.errors import ModelError, TextError
from limbeck.model.tokenizer import Tokenizer, pad

TEXTS = [
    "",
    " ",
    "join two tables",
    "[SEP] inside <|endoftext|> a text",
    "日本語 🙂 e\u0301",
    "Return a new array. " * 9,
]


def ids_of(tokenizer: Tokenizer, texts: list[str], **settings) -> list[list[int]]:
    rows, _ = tokenizer.ids(texts, **({"max_tokens": 10_000} | settings))
    return [r.tolist() for r in rows]


def reloaded(tokenizer: Tokenizer, folder: Path):
    tokenizer.save(folder)
    return AutoTokenizer.from_pretrained(folder)


def two_closing_tokens() -> PreTrainedTokenizerFast:
    """[CLS] text [SEP] <eos>: what comes after the text is more than one token."""
    hf = wordpiece()
    hf.add_special_tokens({"eos_token": "<eos>"})
    hf.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP] <eos>",
        special_tokens=[(t, hf.convert_tokens_to_ids(t)) for t in ("[CLS]", "[SEP]", "<eos>")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=hf.backend_tokenizer,
        eos_token="<eos>",
        sep_token="[SEP]",
        cls_token="[CLS]",
        pad_token="[PAD]",
    )


KINDS = {"bert": wordpiece, "qwen": byte_level, "two closing tokens": two_closing_tokens}


@pytest.fixture(params=KINDS)
def tokenizer(request) -> Tokenizer:
    return Tokenizer(KINDS[request.param]())


def test_a_missing_closing_token_is_added_after_the_same_ids() -> None:
    plain = [byte_level()(t).input_ids for t in TEXTS]
    closed = ids_of(Tokenizer(byte_level()), TEXTS)
    assert closed == [[*ids, byte_level().eos_token_id] for ids in plain]


def test_a_closing_token_that_is_there_is_not_added_again() -> None:
    assert ids_of(Tokenizer(wordpiece()), TEXTS) == wordpiece()(TEXTS).input_ids


def test_the_saved_tokenizer_gives_the_same_ids_to_transformers(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert reloaded(tokenizer, tmp_path)(TEXTS).input_ids == ids_of(tokenizer, TEXTS)


def test_pinning_twice_is_pinning_once(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    assert ids_of(Tokenizer.load(tmp_path), TEXTS) == ids_of(tokenizer, TEXTS)


@pytest.mark.parametrize("limit", [3, 4, 7, 16])
def test_the_cut_is_the_one_that_transformers_makes(tokenizer: Tokenizer, tmp_path: Path, limit: int) -> None:
    theirs = reloaded(tokenizer, tmp_path)(TEXTS, truncation=True, max_length=limit).input_ids
    assert ids_of(tokenizer, TEXTS, max_tokens=limit) == theirs


def test_the_cut_is_on_the_right_even_where_the_tokenizer_would_cut_on_the_left(tmp_path: Path) -> None:
    wordpiece().save_pretrained(tmp_path / "left")
    file = tmp_path / "left" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"truncation_side": "left", "padding_side": "left"}))
    assert AutoTokenizer.from_pretrained(tmp_path / "left").truncation_side == "left"
    tokenizer = Tokenizer.load(tmp_path / "left")
    theirs = reloaded(tokenizer, tmp_path / "right")(TEXTS, truncation=True, max_length=6, padding=True)
    rows = ids_of(tokenizer, TEXTS, max_tokens=6)
    assert [i[: sum(m)] for i, m in zip(theirs.input_ids, theirs.attention_mask, strict=True)] == rows


def test_the_cut_keeps_the_closing_token_and_is_counted(tokenizer: Tokenizer) -> None:
    rows, cut = tokenizer.ids(["join " * 50, "join", "two tables " * 50], max_tokens=8)
    assert cut == 2
    assert [len(r) for r in rows][::2] == [8, 8]
    assert {int(r[-1]) for r in rows} == {tokenizer.closing_id}


def test_a_text_of_exactly_the_limit_is_not_cut(tokenizer: Tokenizer) -> None:
    (whole,) = ids_of(tokenizer, ["join two tables on a key"])
    rows, cut = tokenizer.ids(["join two tables on a key"], max_tokens=len(whole))
    assert cut == 0
    assert rows[0].tolist() == whole


def test_the_prefix_is_text_in_front_of_the_text(tokenizer: Tokenizer) -> None:
    assert ids_of(tokenizer, TEXTS, prefix="Query: ") == ids_of(tokenizer, ["Query: " + t for t in TEXTS])


def test_an_empty_text_is_its_special_tokens(closed: Tokenizer) -> None:
    assert ids_of(closed, [""]) == [[closed.closing_id]]


def test_no_texts_give_no_rows(closed: Tokenizer) -> None:
    assert closed.ids([], max_tokens=8) == ([], 0)


def test_a_text_of_100_000_characters_is_read_and_cut(tokenizer: Tokenizer) -> None:
    rows, cut = tokenizer.ids(["word " * 20_000], max_tokens=512)
    assert (len(rows[0]), cut) == (512, 1)


def test_a_lone_surrogate_is_an_error_that_names_the_text(tokenizer: Tokenizer) -> None:
    with pytest.raises(ModelError, match=r"text 12 is not valid Unicode .* errors='replace'"):
        tokenizer.ids(["fine", "fine too", "\ud800"], prefix="Query: ", max_tokens=8, first=10)


@pytest.mark.parametrize("text", [b"bytes", None, 3, float("nan")])
def test_what_is_no_text_is_an_error_that_names_its_place_and_type(closed: Tokenizer, text) -> None:
    with pytest.raises(ModelError, match=f"text 1 must be a str, got {type(text).__name__}"):
        closed.ids(["fine", text], max_tokens=8)


def test_a_limit_without_room_for_a_token_is_an_error(closed: Tokenizer) -> None:
    with pytest.raises(ModelError, match="max_tokens must be at least 2, got 1"):
        closed.ids(["a"], max_tokens=1)


def test_a_slow_tokenizer_is_refused() -> None:
    class SlowTokenizer:
        is_fast = False

    with pytest.raises(ModelError, match="SlowTokenizer is a slow tokenizer"):
        Tokenizer(SlowTokenizer())


def test_a_tokenizer_with_nothing_to_close_with_is_refused() -> None:
    hf = PreTrainedTokenizerFast(tokenizer_object=byte_level().backend_tokenizer, pad_token="<|endoftext|>")
    with pytest.raises(ModelError, match="no EOS token"):
        Tokenizer(hf)


def test_a_tokenizer_with_nothing_to_pad_with_is_refused() -> None:
    hf = PreTrainedTokenizerFast(tokenizer_object=wordpiece().backend_tokenizer, sep_token="[SEP]")
    with pytest.raises(ModelError, match="neither a padding nor an EOS token"):
        Tokenizer(hf)


def test_padding_falls_back_to_the_closing_token() -> None:
    hf = PreTrainedTokenizerFast(tokenizer_object=byte_level().backend_tokenizer, eos_token="<|endoftext|>")
    tokenizer = Tokenizer(hf)
    assert tokenizer.pad_id == tokenizer.closing_id


def test_a_folder_without_a_tokenizer_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"no tokenizer in {tmp_path}"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("make", [wordpiece, byte_level])
def test_a_tokenizer_whose_vocabulary_is_missing_is_not_taken_for_an_empty_one(make, tmp_path: Path) -> None:
    Tokenizer(make()).save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=f"no tokenizer in {tmp_path}"):
        Tokenizer.load(tmp_path)


def test_a_torn_tokenizer_file_is_an_error_that_names_the_folder(closed: Tokenizer, tmp_path: Path) -> None:
    closed.save(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "tru')
    with pytest.raises(ModelError, match=f"no tokenizer in {tmp_path}"):
        Tokenizer.load(tmp_path)


@given(st.lists(st.text(max_size=40), min_size=1, max_size=5), st.integers(2, 20))
@settings(deadline=None, max_examples=60)
def test_any_text_ends_with_the_closing_token_and_fits(texts: list[str], limit: int) -> None:
    rows, cut = _CLOSED.ids(texts, max_tokens=limit)
    assert all(r[-1] == _CLOSED.closing_id and len(r) <= limit for r in rows)
    assert cut == sum(len(r) > limit for r in ids_of(_CLOSED, texts))


_CLOSED = Tokenizer(byte_level())


def test_rows_are_padded_on_the_right_to_a_multiple_with_a_mask_of_ones_where_they_are() -> None:
    ids, mask = pad([np.array([5, 6, 7]), np.array([8])], pad_id=9, multiple=4)
    assert ids.tolist() == [[5, 6, 7, 9], [8, 9, 9, 9]]
    assert mask.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]


def test_a_text_alone_is_not_padded_and_several_are_to_a_multiple_of_eight() -> None:
    rows = [np.arange(1, 12, dtype=np.int32), np.arange(1, 4, dtype=np.int32)]
    ids, mask = pad(rows[:1], 0)
    assert ids.tolist() == [rows[0].tolist()] and mask.all()
    ids, mask = pad(rows, 0)
    assert (ids.shape, mask.sum(axis=1).tolist()) == ((2, 16), [11, 3])


def test_a_text_over_the_limit_is_an_error_where_that_is_asked_for(tokenizer: Tokenizer) -> None:
    texts = ["join", "two tables " * 50]
    count = len(ids_of(tokenizer, texts)[1])
    with pytest.raises(TextError, match=f"text 8 has {count} tokens, over the limit of 9: shorten it"):
        tokenizer.ids(texts, max_tokens=9, first=7, on_long="error")
    rows, cut = tokenizer.ids(texts, max_tokens=count, on_long="error")
    assert (len(rows[1]), cut) == (count, 0)


@pytest.mark.parametrize("limit", [6, 1000])
def test_placed_tokens_are_the_same_tokens(tokenizer: Tokenizer, limit: int) -> None:
    rows, cut = tokenizer.ids(TEXTS, prefix="Query: ", max_tokens=limit)
    placed = tokenizer.placed(TEXTS, prefix="Query: ", max_tokens=limit)
    assert [p.ids.tolist() for p in placed] == [row.tolist() for row in rows]
    assert sum(p.read < len(t) for p, t in zip(placed, TEXTS, strict=True)) == cut
    for p, text in zip(placed, TEXTS, strict=True):
        assert len(p.starts) == len(p.ids) and (np.diff(p.starts) >= 0).all()
        assert p.starts[-1] == len(text)


def test_tokens_start_at_the_words_of_a_text_with_a_prefix(closed: Tokenizer) -> None:
    [placed] = closed.placed(["join two  tables"], prefix="Query: ", max_tokens=100)
    assert {0, 5, 10} <= set(placed.starts.tolist())  # not at the spaces that their tokens begin with
    prefix_tokens = (placed.starts == -1).sum()
    assert closed.hf.decode(placed.ids[:prefix_tokens]).strip() == "Query:"
