"""Texts and a tokenizer that stand in for those of a recipe: of its kinds, lengths and vocabulary, and of no meaning.

A text is as many words as the longest text that is read, so that it is cut, and memory is the most that a run takes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from limbeck.config import Columns, DebianPackagesSource, DerivedSource, FileSource, PythonDocsSource, Source
from limbeck.files import atomic_write

Kind = Literal["pair", "triplet", "scored_pair", "text", "labelled_text"]

LABELS = 4  # of labelled texts
_SPECIAL = ("<unk>", "<pad>", "<eos>")
_PREFIX_WORDS = ("Query", "Document", ":")
_ROWS_OF_ONE_WRITE = 256

COLUMNS: dict[Kind, Columns] = {
    "pair": Columns(query="query", document="document"),
    "triplet": Columns(query="query", document="document", negatives="negatives"),
    "scored_pair": Columns(query="query", document="document", score="score"),
    "text": Columns(text="text"),
    "labelled_text": Columns(text="text", labels="label"),
}


def kind_of(source: Source) -> Kind:
    """What kind of example a source gives, from its settings alone."""
    if isinstance(source, PythonDocsSource):
        kinds: dict[str, Kind] = {"package": "labelled_text", "section": "labelled_text", "graded": "scored_pair"}
        return kinds.get(source.pairs, "pair")
    if isinstance(source, DebianPackagesSource):
        return "labelled_text" if source.pairs == "section" else "pair"
    if isinstance(source, DerivedSource):
        return "pair"
    columns = source.columns
    if columns.text:
        return "labelled_text" if columns.labels else "text"
    return "triplet" if columns.negatives else "scored_pair" if columns.score else "pair"


def word(number: int) -> str:
    """The word of a number; all words are equally long."""
    return f"w{number:07d}"


def write_texts(
    path: Path, source: Source, *, rows: int, words: int, vocabulary: int, negatives: int, seed: int
) -> FileSource:
    """Write rows of a source's kind as JSON lines. Returns the source that reads them, under the same name.

    Args:
        path: of the file.
        source: that they stand in for.
        rows: how many.
        words: of every text.
        vocabulary: different words, each as likely as any other.
        negatives: of each triplet, at least 1.
        seed: of the draw.
    """
    kind, draw = kind_of(source), np.random.default_rng([seed, len(source.name), *source.name.encode()])

    def text(first: str) -> str:
        return " ".join([first, *(word(n) for n in draw.integers(vocabulary, size=words - 1))])

    def row(number: int) -> dict[str, Any]:
        topic = word(number % vocabulary)  # a random teacher holds texts together that begin alike
        if kind in ("text", "labelled_text"):
            label = word(number % LABELS)
            return {"text": text(label if kind == "labelled_text" else topic), "label": label}
        found: dict[str, Any] = {"query": text(topic), "document": text(topic), "score": number % 11 / 10}
        others = [word((number + 1 + n) % vocabulary) for n in range(max(1, negatives))]
        return found | ({"negatives": [text(other) for other in others]} if kind == "triplet" else {})

    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for start in range(0, rows, _ROWS_OF_ONE_WRITE):
            part = range(start, min(rows, start + _ROWS_OF_ONE_WRITE))
            file.writelines(json.dumps(row(number)) + "\n" for number in part)
    return FileSource(
        name=source.name,
        path=str(path),
        columns=COLUMNS[kind],
        score_range=(0.0, 1.0) if kind == "scored_pair" else None,
    )


def write_tokenizer(folder: Path, vocabulary: int) -> int:
    """Save a tokenizer of exactly so many tokens: one for each word of `word`. Returns how many words it knows.

    vocabulary: at least 16, so that there are words besides the tokens that prefixes and ends of texts take.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = vocabulary - len(_SPECIAL) - len(_PREFIX_WORDS)
    tokens = [*_SPECIAL, *_PREFIX_WORDS, *(word(n) for n in range(words))]
    raw = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=_SPECIAL[0]))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    names = dict(zip(("unk_token", "pad_token", "eos_token"), _SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=raw, **names).save_pretrained(str(folder))
    return words
