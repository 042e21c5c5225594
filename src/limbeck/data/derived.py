"""Sources made of other sources once those are cleaned and split: each half from the same half of the other.

A text of a derived source is one of the other's half, or a new one; a pair with a new text that stands on the other
side, in whatever source that was made before, is left out as `overlap`. New texts are compared as `normalise` folds
them; near duplicates are not looked for. Documents with distractors need no such look: they are made of texts of one
side, and a text of the other would have to be several of them end to end.

Counts of a derived source are of pairs, and of documents that gave none (`without_query`); what `max_rows` and
`heldout_max` leave out is not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from limbeck.config import Data, DerivedSource, DistractorsSource, QueriesSource
from limbeck.data.dedup import Hashes, Ints, normalise, stable_hash
from limbeck.data.distractors import hidden_documents
from limbeck.data.document_queries import Ask, asking, document_of
from limbeck.data.examples import Pair
from limbeck.data.half_tables import HALVES, ExampleWriter, Half, described, half_tables
from limbeck.data.tables import ExampleTable
from limbeck.errors import DataError

KIND = "pair"  # of every derived source

Mask = npt.NDArray[np.bool_]

_BATCH_DOCUMENTS = 512  # held in memory at once
_PROGRESS_ROWS = 1000


@dataclass(frozen=True)
class Sides:
    """Hashes (`stable_hash` of the normalised text) of what stands on each side, over all sources made so far."""

    train: Hashes
    heldout: Hashes


@dataclass(frozen=True)
class Derived:
    """What became of a derived source."""

    counts: Mapping[str, int]
    tables: dict[Half, dict[str, Any]]  # as the manifest describes them
    sides: Sides  # with its new texts


@dataclass(frozen=True)
class _Made:
    """The pairs of each half, made while they are read."""

    pairs: dict[Half, Iterator[Pair]]
    counts: Counter[str]
    sides: Sides


def derive(
    source: DerivedSource,
    of: Mapping[Half, ExampleTable],
    data: Data,
    sides: Sides,
    *,
    folder: Path,
    number: int,
    progress: Callable[[str, int], None] | None = None,
) -> Derived:
    """Make the two tables of a derived source in `folder`; `number` is the source's, for the names of the files.

    Raises DataError: the source that it is made of holds no pairs where pairs are needed; a model that writes no
    queries (see `write_queries`).
    """
    if isinstance(source, DistractorsSource):
        made = _hidden(source, of, data, sides)
    else:
        made = _asked(source, of, data, sides)
    report = progress or (lambda name, rows: None)
    rows = 0
    with half_tables(folder, number, source.name, KIND) as tables:
        for half in HALVES:
            writer = ExampleWriter(tables[half], KIND)
            for pair in made.pairs[half]:
                writer.write(pair)
                rows += 1
                if rows % _PROGRESS_ROWS == 0:
                    report(source.name, rows)
            writer.flush()
    report(source.name, rows)
    counts = {**made.counts, **{half: tables[half].rows for half in HALVES}}
    return Derived({**counts, "read": sum(counts.values())}, described(tables), made.sides)


def _sample(draws: Hashes, heldout: Mask, source: DerivedSource, data: Data) -> Mask:
    """[N] which are kept: the smallest `max_rows` of the draws, then the smallest `heldout_max` of the held-out."""
    kept = np.ones(len(draws), bool)
    kept[np.argsort(draws, kind="stable")[source.max_rows or len(draws) :]] = False
    rows = np.flatnonzero(kept & heldout)
    kept[rows[np.argsort(draws[rows], kind="stable")[data.heldout_max or len(rows) :]]] = False
    return kept


# -------------------------------------------------------------------------------------- distractors


def _hidden(source: DistractorsSource, of: Mapping[Half, ExampleTable], data: Data, sides: Sides) -> _Made:
    if (kind := of["train"].kind) not in ("pair", "triplet"):
        raise DataError(
            f"source {source.name!r} hides the documents of pairs or triplets, but {source.of!r} holds {kind} "
            "examples: name another source in `of`"
        )
    draws: dict[Half, list[int]] = {
        half: [_draw(source, pair) for pair in of[half] if isinstance(pair, Pair)] for half in HALVES
    }
    kept = _kept_of_each(draws, source, data)
    pairs: dict[Half, Iterator[Pair]] = {half: hidden_documents(of[half], source, kept[half]) for half in HALVES}
    return _Made(pairs, Counter(), sides)


def _draw(source: DerivedSource, pair: Pair) -> int:
    """What a pair is sampled by: salted, as the side of a document is told by its own hash."""
    return stable_hash(f"{source.name}\n{pair.query}\n{pair.document}")


def _kept_of_each(draws: Mapping[Half, Sequence[int]], source: DerivedSource, data: Data) -> dict[Half, list[int]]:
    """Half → places in its draws that `_sample` keeps."""
    heldout = np.repeat([half == "heldout" for half in HALVES], [len(draws[half]) for half in HALVES])
    kept = _sample(np.array([draw for half in HALVES for draw in draws[half]], np.uint64), heldout, source, data)
    return {half: np.flatnonzero(kept[heldout == (half == "heldout")]).tolist() for half in HALVES}


# ------------------------------------------------------------------------------------------ queries


@dataclass(frozen=True)
class _Candidates:
    """C pairs found in the documents of both halves."""

    heldout: Mask  # [C]
    rows: Ints  # [C] of the document in the table of its half
    places: Ints  # [C] among the pairs of its document
    draws: Hashes  # [C]
    texts: Hashes  # [C, 4] query, document, what the teacher reads in place of them


def _asked(source: QueriesSource, of: Mapping[Half, ExampleTable], data: Data, sides: Sides) -> _Made:
    ask, counts = asking(source), Counter[str]()
    found = _candidates(source, of, data, ask, counts)
    heldout, texts = found.heldout, found.texts
    _, queries, times = np.unique(texts[:, 0], return_inverse=True, return_counts=True)
    own = times[queries] == 1  # a heading such as "Introduction" asks for none of the documents that have it
    overlap = own & heldout & np.isin(texts, sides.train).any(axis=1)
    heldout_texts = np.union1d(sides.heldout, texts[own & heldout & ~overlap])
    overlap |= own & ~heldout & np.isin(texts, heldout_texts).any(axis=1)
    counts["shared_query"], counts["overlap"] = int((~own).sum()), int(overlap.sum())

    kept = np.flatnonzero(own & ~overlap)
    kept = kept[_sample(found.draws[kept], heldout[kept], source, data)]
    chosen: dict[Half, Ints] = {"train": kept[~heldout[kept]], "heldout": kept[heldout[kept]]}
    pairs: dict[Half, Iterator[Pair]] = {
        half: _pairs(of[half], found.rows[c], found.places[c], ask) for half, c in chosen.items()
    }
    train_texts, heldout_texts = (texts[chosen[half]] for half in HALVES)
    return _Made(pairs, counts, Sides(np.union1d(sides.train, train_texts), np.union1d(sides.heldout, heldout_texts)))


def _candidates(
    source: QueriesSource, of: Mapping[Half, ExampleTable], data: Data, ask: Ask, counts: Counter[str]
) -> _Candidates:
    """All pairs of all different documents, by their hashes alone; counts the documents and pairs that are no use."""
    rows = {half: _distinct_documents(of[half]) for half in HALVES}
    if source.by == "model":  # each answer costs: only what is kept is asked for
        draws: dict[Half, list[int]] = {
            half: [stable_hash(f"{source.name}\n{document_of(of[half][i]).text}") for i in rows[half]]
            for half in HALVES
        }
        kept = _kept_of_each(draws, source, data)
        rows = {half: [rows[half][i] for i in kept[half]] for half in HALVES}
    places: list[tuple[bool, int, int]] = []
    hashes: list[tuple[int, ...]] = []
    for half in HALVES:
        for row, pairs in _asked_in_batches(of[half], rows[half], ask):
            counts["without_query"] += not pairs
            for place, pair in enumerate(pairs):
                if min(len(pair.query.strip()), len(pair.document.strip())) < data.min_chars:
                    counts["too_short"] += 1
                    continue
                read = (
                    pair.query,
                    pair.document,
                    pair.teacher_query or pair.query,
                    pair.teacher_document or pair.document,
                )
                places.append((half == "heldout", row, place))
                hashes.append((_draw(source, pair), *(stable_hash(normalise(text)) for text in read)))
    numbers, found = np.array(places, np.int64).reshape(-1, 3), np.array(hashes, np.uint64).reshape(-1, 5)
    return _Candidates(numbers[:, 0] == 1, numbers[:, 1], numbers[:, 2], found[:, 0], found[:, 1:])


def _distinct_documents(table: ExampleTable) -> list[int]:
    """The first row of each different document, in order."""
    hashes = np.array([stable_hash(normalise(document_of(example).text)) for example in table], np.uint64)
    return np.sort(np.unique(hashes, return_index=True)[1]).tolist()


def _asked_in_batches(table: ExampleTable, rows: Sequence[int], ask: Ask) -> Iterator[tuple[int, list[Pair]]]:
    """Each row with the pairs of its document."""
    for start in range(0, len(rows), _BATCH_DOCUMENTS):
        batch = rows[start : start + _BATCH_DOCUMENTS]
        yield from zip(batch, ask([document_of(table[row]) for row in batch]), strict=True)


def _pairs(table: ExampleTable, rows: Ints, places: Ints, ask: Ask) -> Iterator[Pair]:
    """The pairs at these places, made once more: all of them at once might not fit into memory."""
    wanted: dict[int, list[int]] = {}
    for row, place in zip(rows.tolist(), places.tolist(), strict=True):
        wanted.setdefault(row, []).append(place)
    for row, pairs in _asked_in_batches(table, list(wanted), ask):
        yield from (pairs[place] for place in wanted[row])
