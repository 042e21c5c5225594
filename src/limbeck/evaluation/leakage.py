"""Do texts that a model was trained on occur in what it is evaluated on?

Texts are compared after `limbeck.data.dedup.normalise`: an evaluation text leaked exactly when it equals a training
text, nearly when the Jaccard similarity of their word 5-grams reaches the threshold, as it is for deduplication.
Punctuation is no part of a word. In a text of fewer than SHORT_WORDS words one changed word spoils too many of its
5-grams, so two such texts are near also when their word pairs are that similar: at 0.8, one changed word is found from
19 words on, the last one from 10 on. A text of fewer words than a gram is one gram, near only to one of the same words.

Legend: `T` distinct training texts, `E` distinct evaluation texts of a block.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from limbeck.data.dedup import Hashes, Ints, Signatures, Signer, jaccard, normalise, stable_hash, words_of
from limbeck.data.examples import Example, Pair, Triplet
from limbeck.data.sources import read_rows
from limbeck.data.tables import Prepared
from limbeck.errors import ConfigError, DataError
from limbeck.evaluation.results import Leak

THRESHOLD = 0.8  # of the Jaccard similarity: that of `data.near_duplicate_threshold`
SHORT_WORDS = 50  # from here on, the 5-grams bear one changed word
_SHORT_GRAM = 2

_BLOCK_TEXTS = 1 << 16  # evaluation texts looked at together
_MOST_CANDIDATES = (
    64  # training texts of one LSH bucket that a text is compared with, so that a template costs no hours
)
_SHOWN_CHARS = 200


class TrainingTexts:
    """What a model was trained on: read in passes, signed once for a threshold, and then compared with any task.

    Kept of each distinct text: its hash, LSH keys and at most 1 kB of shingle hashes, never the text.
    """

    def __init__(self, read: Callable[[], Iterable[str]]) -> None:
        """Texts that `read` yields, from the start and in the same order whenever it is called."""
        self._read = read
        self._signed: dict[float, _Signed] = {}

    def signed(self, threshold: float) -> _Signed:
        """Signatures for a threshold, made at the first call. Raises ConfigError unless 0 < threshold ≤ 1."""
        if threshold not in self._signed:
            self._signed[threshold] = _sign(self._read(), threshold)
        return self._signed[threshold]

    def at(self, rows: Iterable[int]) -> dict[int, str]:
        """The texts that stand at these places of the reading order, fetched in one pass."""
        wanted = set(rows)
        return {row: text for row, text in enumerate(self._read() if wanted else ()) if row in wanted}


def training_texts_of(path: Path) -> TrainingTexts:
    """Open what a model was trained on.

    Args:
        path: a run folder such as runs/demo, or its `data` folder: every text of the training half of each source,
            negatives and the teacher's own texts included. Or a JSONL, CSV (both also .gz) or Parquet file: every
            string of its rows, alone or in a list, whatever the field is called.

    Raises DataError: nothing there, a folder that holds no prepared data, a file that cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        prepared = Prepared.open(path / "data" if (path / "data").is_dir() else path)
        tables = [split.train for split in prepared.sources.values()]
        return TrainingTexts(lambda: (text for table in tables for example in table for text in _texts(example)))
    if path.is_file():
        return TrainingTexts(lambda: (text for row in read_rows(path) for value in row.values() for text in _in(value)))
    raise DataError(f"no training texts at {path}: give a run folder, or a .jsonl, .csv or .parquet file")


def find_leaks(
    evaluation_texts: Iterable[str],
    training_texts: Iterable[str] | TrainingTexts,
    *,
    threshold: float = THRESHOLD,
    shown: int = 5,
) -> Leak:
    """Count the distinct evaluation texts that are, exactly or nearly, training texts. Blank texts do not count.

    Args:
        evaluation_texts: queries, documents, sentences: all that a task lets a model read. Read once, in blocks.
        training_texts: give `TrainingTexts` to sign them once for many tasks.
        threshold: of the Jaccard similarity, in 0 … 1. A pair at the threshold is found with a chance of 95%, more
            above it.
        shown: examples of each kind that are kept.

    Raises ConfigError unless 0 < threshold ≤ 1, and DataError where the training texts cannot be read or are none.
    """
    if not isinstance(training_texts, TrainingTexts):
        listed = list(training_texts)
        training_texts = TrainingTexts(lambda: listed)
    training = training_texts.signed(threshold)
    if not len(training.rows):
        raise DataError("there are no training texts to compare with: name the data that the model was trained on")

    counts, examples = {"exact": 0, "near": 0}, {"exact": [], "near": []}
    seen: set[int] = set()
    evaluation_texts = iter(evaluation_texts)
    while block := list(islice(evaluation_texts, _BLOCK_TEXTS)):
        signed = _sign(block, threshold, seen)
        exact = _find_exact(signed, training)
        for kind, found in (
            ("exact", exact),
            ("near", np.where(exact < 0, _find_near(signed, training, threshold), -1)),
        ):
            leaked = np.flatnonzero(found >= 0)
            counts[kind] += len(leaked)
            for i in leaked[: shown - len(examples[kind])]:
                examples[kind].append((block[signed.rows[i]], int(training.rows[found[i]])))
    listed_examples = [*examples["exact"], *examples["near"]]
    originals = training_texts.at(row for _, row in listed_examples)
    return Leak(
        **counts,
        texts=len(seen),
        threshold=threshold,
        examples=[(_shortened(text), _shortened(originals[row])) for text, row in listed_examples],
    )


@dataclass(frozen=True)
class _Buckets:
    """LSH keys in order, band by band, so that those equal to a key are found by bisection."""

    keys: Hashes  # [bands, T], each band sorted
    order: npt.NDArray[np.uint32]  # [bands, T]: which text has that key

    @classmethod
    def of(cls, signatures: Signatures) -> _Buckets:
        order = np.argsort(signatures.keys.T, axis=1).astype(np.uint32)
        return cls(np.take_along_axis(signatures.keys.T, order, axis=1), order)


@dataclass(frozen=True)
class _Signed:
    """Distinct texts in the order of their first occurrence, of which S are short."""

    rows: Ints  # [T] place of the first occurrence in the reading order
    hashes: Hashes  # [T]
    grams: Signatures  # [T] of word 5-grams
    pairs: Signatures  # [S] of word pairs
    short: Ints  # [S] which texts these are

    @cached_property
    def hash_order(self) -> Ints:
        return np.argsort(self.hashes)

    @cached_property
    def gram_buckets(self) -> _Buckets:
        return _Buckets.of(self.grams)

    @cached_property
    def pair_buckets(self) -> _Buckets:
        return _Buckets.of(self.pairs)


def _sign(texts: Iterable[str], threshold: float, seen: set[int] | None = None) -> _Signed:
    """Sign each text that is not blank and whose hash is not in `seen`, and add its hash there."""
    if not 0 < threshold <= 1:
        raise ConfigError(f"the threshold of near duplicates must lie above 0 and at most at 1, got {threshold}")
    seen = set() if seen is None else seen
    grams, pairs = Signer(threshold), Signer(threshold, _SHORT_GRAM)
    rows, hashes, short = array("q"), array("Q"), array("q")
    for row, text in enumerate(texts):
        normalised = normalise(text.encode(errors="replace").decode())  # a lone surrogate has no bytes to hash
        digest = stable_hash(normalised)
        if not normalised or digest in seen:
            continue
        seen.add(digest)
        words = words_of(normalised)
        grams.add(words)
        if len(words) < SHORT_WORDS:
            pairs.add(words)
            short.append(len(rows))
        rows.append(row)
        hashes.append(digest)
    return _Signed(
        np.array(rows, np.int64),
        np.array(hashes, np.uint64),
        grams.signatures(),
        pairs.signatures(),
        np.array(short, np.int64),
    )


def _find_exact(evaluation: _Signed, training: _Signed) -> Ints:
    """[E] → number of the training text that is the same, −1 where there is none."""
    place = np.searchsorted(training.hashes, evaluation.hashes, sorter=training.hash_order)
    number = training.hash_order[np.minimum(place, len(training.hashes) - 1)]
    return np.where(training.hashes[number] == evaluation.hashes, number, -1)


def _find_near(evaluation: _Signed, training: _Signed, threshold: float) -> Ints:
    """[E] → number of a training text that is nearly the same, −1 where none is found."""
    found = _join(evaluation.grams, training.grams, training.gram_buckets, threshold)
    short = _join(evaluation.pairs, training.pairs, training.pair_buckets, threshold)
    near = short >= 0
    found[evaluation.short[near]] = training.short[short[near]]
    return found


def _join(left: Signatures, right: Signatures, buckets: _Buckets, threshold: float) -> Ints:
    """[left] → a text of `right` whose Jaccard similarity reaches the threshold, −1 where none is found."""
    found = np.full(len(left), -1, np.int64)
    for left_keys, keys, order in zip(left.keys.T, buckets.keys, buckets.order, strict=True):
        start, stop = np.searchsorted(keys, left_keys, "left"), np.searchsorted(keys, left_keys, "right")
        for place in range(_MOST_CANDIDATES):
            open_ = np.flatnonzero((found < 0) & (start + place < stop))
            if not open_.size:
                break
            candidates = order[start[open_] + place].astype(np.int64)
            near = jaccard(left, open_, right, candidates) >= threshold
            found[open_[near]] = candidates[near]
    return found


def _texts(example: Example) -> Iterator[str]:
    """All that training reads of an example."""
    if isinstance(example, Pair):
        texts = [example.query, example.document, example.teacher_query, example.teacher_document]
        texts += example.negatives if isinstance(example, Triplet) else ()
    else:
        texts = [example.text, example.teacher_text]
    return (text for text in texts if text is not None)


def _in(value: object) -> Iterator[str]:
    """Strings of a field."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return (item for item in values if isinstance(item, str))


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…"
