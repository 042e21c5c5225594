"""Token ids on disk: what was written is what is read, and a table that is not whole is never read."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from limbeck.data.tokens import TokenTable
from limbeck.errors import DataError
from limbeck.model.tokenizer import Tokenizer

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "Query:"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    raw = RawTokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    return Tokenizer(fast)


@pytest.fixture
def stem(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """A finished table of two parts; the second has one text over the limit of 5 tokens."""
    stem = tmp_path / "tokens" / "docs.v1"
    TokenTable.write(stem, [(["a b", ""], "Query: "), (["c", "a b c a b c"], "")], tokenizer, max_tokens=5)
    return stem


def test_rows_come_back_as_they_were_tokenised(stem: Path) -> None:
    table = TokenTable.open(stem)
    assert [table[i].tolist() for i in range(len(table))] == [[2, 7, 4, 5, 3], [2, 7, 3], [2, 6, 3], [2, 4, 5, 6, 3]]
    assert table.lengths.tolist() == [5, 3, 3, 5]
    assert (table.tokens, table.truncated) == (16, 1)
    assert TokenTable.finished(stem)


def test_a_dot_in_a_name_does_not_make_two_tables_one(stem: Path, tokenizer: Tokenizer) -> None:
    other = stem.with_name("docs.v2")
    assert not TokenTable.finished(other)
    TokenTable.write(other, [(["c c"], "")], tokenizer, max_tokens=5)
    assert len(TokenTable.open(other)) == 1 and len(TokenTable.open(stem)) == 4


def test_many_texts_are_tokenised_in_chunks_to_the_same_rows(
    stem: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from limbeck.data import tokens

    texts = ["a " * (i % 7) + "b" for i in range(100)]
    whole = TokenTable.write(stem.with_name("whole"), [(texts, "")], tokenizer, max_tokens=6)
    monkeypatch.setattr(tokens, "_CHUNK", 8)
    chunked = TokenTable.write(stem.with_name("chunked"), [(texts, "")], tokenizer, max_tokens=6)
    np.testing.assert_array_equal(whole.flat, chunked.flat)
    np.testing.assert_array_equal(whole.offsets, chunked.offsets)
    assert whole.truncated == chunked.truncated > 0


def test_another_process_is_told_where_a_table_is_and_one_in_memory_is_sent(stem: Path) -> None:
    table = TokenTable.open(stem)
    told = pickle.loads(pickle.dumps(table))
    (stem.parent / "docs.v1.tokens").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        pickle.loads(pickle.dumps(table))
    in_memory = pickle.loads(pickle.dumps(TokenTable(table.flat, table.offsets, table.truncated)))
    for other in (told, in_memory):
        assert [other[i].tolist() for i in range(len(table))] == [table[i].tolist() for i in range(len(table))]
        assert other.truncated == table.truncated == 1


@pytest.mark.parametrize("ending", [".json", ".offsets.npy", ".tokens"])
def test_a_table_without_one_of_its_files_is_refused(stem: Path, ending: str) -> None:
    stem.with_name(stem.name + ending).unlink()
    with pytest.raises(DataError, match=f"cannot be read .* delete .*{stem.parent.name}"):
        TokenTable.open(stem)


@pytest.mark.parametrize("ending", [".json", ".offsets.npy", ".tokens"])
def test_a_table_with_a_torn_file_is_refused(stem: Path, ending: str) -> None:
    path = stem.with_name(stem.name + ending)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=f"delete .*{stem.parent.name}"):
        TokenTable.open(stem)
