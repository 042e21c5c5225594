"""Sources → a folder of clean, deduplicated and split Arrow tables.

How duplicates go. Two texts are the same when they are equal after `normalise`, and nearly the same when the Jaccard
similarity of their word 5-grams reaches `near_duplicate_threshold` (texts that such pairs join, even in a chain, count
as one). An example is a duplicate when an earlier one of the same kind, in the order of the sources and their rows, has
the same query *and* the same document (near duplicate: nearly the same); one document under many queries is not. An
exact duplicate of a triplet leaves its negatives to the one that stays. Teacher texts and negatives play no part.

How the split is made. The document (for a text, the text) is hashed after normalisation; examples whose hash is in
the lowest `heldout_fraction` of the range (the source's own, where it has one) are held out. Where the teacher reads
another document, that one is hashed, so that an original and its translations stand on one side. Hence a document's
side depends on nothing but itself: not on order, machine, or on what else is there. `heldout_max` keeps the examples
with the smallest hashes, which lowers the fraction for that source; with it, rows added later can move a document from
held out to training.

Then no text, and no near duplicate of one, stands on both sides, over all sources together:
  1. a training example goes when one of its texts (query, document, text, teacher texts) is also one of a held-out
     example's; counted as `overlap`. Put the side that is shared by many examples (the English of a parallel corpus)
     in `document`, and hardly any go;
  2. a negative in training that is such a held-out text is taken out of its triplet, and a triplet left with none
     goes, also as `overlap`;
  3. a held-out negative that training reads anywhere is taken out of its triplet, which stays.
Negatives taken out are counted as `negatives_removed`.

Derived sources are made last, each half of the finished half of the source that they name (see
`limbeck.data.derived`), and counted in the same way; documents without a query are `without_query`, pairs whose query
several documents share `shared_query`.
"""

from __future__ import annotations

import shutil
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from limbeck.config import Data, DerivedSource, Source
from limbeck.data.dedup import TextIndex, normalise
from limbeck.data.derived import KIND, Sides, derive
from limbeck.data.examples import Example, Pair, Triplet
from limbeck.data.half_tables import HALVES, ExampleWriter, Half, described, half_tables
from limbeck.data.sources import ReadReport, read_source
from limbeck.data.tables import (
    FORMAT,
    KINDS,
    MANIFEST,
    ExampleTable,
    Prepared,
    TableWriter,
    fingerprint_of,
    kind_of,
    schema_of,
)
from limbeck.errors import DataError
from limbeck.files import write_json
from limbeck.folders import full_disk_named, replaced_folder

Progress = Callable[[str, int], None]
Mask = npt.NDArray[np.bool_]

_PROGRESS_ROWS = 1000


def prepare(data: Data, out: Path, *, progress: Progress | None = None) -> Prepared:
    """Read, clean, deduplicate and split the sources into the folder `out`, replacing what `prepare` wrote there.

    `progress` is called every 1,000 rows with a source's name and its rows so far. The same input gives the same
    bytes. The folder is written beside `out` and renamed, so it is whole or absent, whatever kills the process.

    Raises DataError: a source that cannot be read (see `read_source`), mixes kinds, or is left without training
    examples; a full disk; an `out` that holds something else.
    """
    out = Path(out)
    _refuse_foreign(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    read = data.model_copy(update={"sources": [s for s in data.sources if not isinstance(s, DerivedSource)]})
    with full_disk_named(out), replaced_folder(out) as folder:
        spool = folder / "spool"
        spool.mkdir()
        collected = _collect(read, spool, progress)
        decided = _decide(read, collected)
        entries = _write(read, collected, decided, spool, folder)
        shutil.rmtree(spool)
        _derive(data, entries, decided.sides, folder, progress)
        write_json(folder / MANIFEST, _manifest(data, entries))
    return Prepared.open(out)


def _refuse_foreign(out: Path) -> None:
    """Raise DataError where replacing `out` would delete what somebody else put there."""
    if not out.exists() or (out / MANIFEST).is_file():
        return
    # hidden files are a run's own notes: an attempt that failed leaves them behind, and must not bar the next one
    if not out.is_dir() or any(not path.name.startswith(".") for path in out.iterdir()):
        raise DataError(
            f"{out} exists and was not written by prepare (it has no {MANIFEST}): move it or write elsewhere"
        )


# ---------------------------------------------------------------------------- first pass: read and spool


@dataclass
class _Counts:
    read: int = 0
    malformed: int = 0
    too_short: int = 0
    exact_duplicates: int = 0
    near_duplicates: int = 0
    without_query: int = 0
    shared_query: int = 0
    overlap: int = 0
    negatives_removed: int = 0
    train: int = 0
    heldout: int = 0

    def as_dict(self) -> dict[str, int]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


class _Collected:
    """What the first pass remembers of every spooled row; texts are numbers given by the index.

    `own` are the texts that decide a row's side (query, document, text, teacher texts) and `negatives` the rest, both
    as (row, text) in two arrays.
    """

    def __init__(self, data: Data) -> None:
        self.texts = TextIndex(data.near_duplicate_threshold)
        self.counts = {source.name: _Counts() for source in data.sources}
        self.malformed: dict[str, list[str]] = {}
        self.kinds: dict[str, str] = {}
        self.kind_numbers, self.source_numbers = array("q"), array("q")
        self.first_texts, self.last_texts, self.split_texts = array("q"), array("q"), array("q")
        self.own_rows, self.own_texts = array("q"), array("q")
        self.negative_rows, self.negative_texts = array("q"), array("q")
        self.more_negatives: dict[int, list[str]] = {}  # row → those of its exact duplicates
        self._seen: dict[tuple[int, int, int], int] = {}

    def add(self, example: Example, source_number: int) -> bool:
        """Note an example; False when an exact duplicate is already there."""
        kind = list(KINDS).index(kind_of(example))
        texts, teacher_texts = _own_texts(example)
        numbers = [self.texts.add(normalise(text)) for text in texts]
        row = len(self.kind_numbers)
        first_row = self._seen.setdefault((kind, numbers[0], numbers[-1]), row)
        if isinstance(example, Triplet):
            self._add_negatives(first_row, example.negatives, merged=first_row != row)
        if first_row != row:
            return False
        teacher_numbers = [self.texts.add(normalise(text)) if text else None for text in teacher_texts]
        own = [*numbers, *(number for number in teacher_numbers if number is not None)]
        self.kind_numbers.append(kind)
        self.source_numbers.append(source_number)
        self.first_texts.append(numbers[0])
        self.last_texts.append(numbers[-1])
        self.split_texts.append(numbers[-1] if teacher_numbers[-1] is None else teacher_numbers[-1])
        self.own_texts.extend(own)
        self.own_rows.extend([row] * len(own))
        return True

    def _add_negatives(self, row: int, negatives: tuple[str, ...], *, merged: bool) -> None:
        for negative in negatives:
            number = self.texts.add(normalise(negative))
            self.negative_rows.append(row)
            self.negative_texts.append(number)
        if merged:
            self.more_negatives.setdefault(row, []).extend(negatives)


def _own_texts(example: Example) -> tuple[list[str], list[str | None]]:
    """Texts that the student reads, last the one that is split by; and what the teacher reads in place of each."""
    if isinstance(example, Pair):
        return [example.query, example.document], [example.teacher_query, example.teacher_document]
    return [example.text], [example.teacher_text]


def _collect(data: Data, spool: Path, progress: Progress | None) -> _Collected:
    collected = _Collected(data)
    for number, source in enumerate(data.sources):
        report, counts = ReadReport(), collected.counts[source.name]
        writer: ExampleWriter | None = None
        try:
            for example in read_source(source, report=report):
                if progress and report.rows % _PROGRESS_ROWS == 0:
                    progress(source.name, report.rows)
                kind = collected.kinds.setdefault(source.name, kind_of(example))
                writer = writer or ExampleWriter(TableWriter(_spool_file(spool, number), schema_of(kind)), kind)
                _check(example, kind, source)
                if any(len(text.strip()) < data.min_chars for text in _own_texts(example)[0]):
                    counts.too_short += 1
                elif collected.add(example, number):
                    writer.write(example)
                else:
                    counts.exact_duplicates += 1
            if writer:
                writer.close()
        finally:
            if writer:
                writer.abandon()
        if progress:
            progress(source.name, report.rows)
        counts.read, counts.malformed = report.rows, report.malformed
        collected.malformed[source.name] = report.shown
        if not writer:
            raise _no_training_examples(source.name, counts)
    return collected


def _check(example: Example, kind: str, source: Source) -> None:
    if kind_of(example) != kind:
        raise DataError(f"source {source.name!r} mixes {kind} and {kind_of(example)} examples: make it two sources")
    texts, teacher_texts = _own_texts(example)
    negatives = example.negatives if isinstance(example, Triplet) else ()
    for text in [*texts, *(text for text in teacher_texts if text), *negatives]:
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise DataError(f"source {source.name!r}, {example.id}: a text is not Unicode ({error})") from None


def _spool_file(spool: Path, source_number: int) -> Path:
    return spool / f"{source_number}.arrow"


# ------------------------------------------------------------------------- who goes, and to which side


@dataclass(frozen=True)
class _Decided:
    """R rows, N negatives in the order of their rows."""

    sources: npt.NDArray[np.int64]  # [R]
    train: Mask  # [R]
    heldout: Mask  # [R]
    negative_starts: npt.NDArray[np.int64]  # [R + 1] where the negatives of each row start
    negative_kept: Mask  # [N]
    sides: Sides


def _decide(data: Data, collected: _Collected) -> _Decided:
    """Find near duplicates, split, and take out what stands on both sides; fills in the counts."""
    groups = collected.texts.clusters()
    sources, kinds = np.asarray(collected.source_numbers), np.asarray(collected.kind_numbers)
    first, last = np.asarray(collected.first_texts), np.asarray(collected.last_texts)
    rows = len(sources)

    keys = np.stack([kinds, groups[first], groups[last]], axis=1)
    distinct = np.zeros(rows, bool)
    distinct[np.unique(keys, axis=0, return_index=True)[1]] = True  # index of the first of each

    hashes = np.array(collected.texts.hashes, np.uint64)
    split_hashes = hashes[np.asarray(collected.split_texts)]
    bounds = np.array([int(data.heldout_of(source) * 2**64) for source in data.sources], np.uint64)
    heldout = distinct & (split_hashes < bounds[sources])
    if data.heldout_max is not None:
        heldout = _smallest(heldout, sources, split_hashes, hashes[first], data.heldout_max)

    own_rows, own_groups = np.asarray(collected.own_rows), groups[np.asarray(collected.own_texts)]
    heldout_groups = np.zeros(len(groups), bool)
    heldout_groups[own_groups[heldout[own_rows]]] = True
    train = distinct & ~heldout & ~_any(heldout_groups[own_groups], own_rows, rows)

    negative_rows = np.asarray(collected.negative_rows, np.int64)
    order = np.argsort(negative_rows, kind="stable")
    negative_rows = negative_rows[order]
    negative_texts = np.asarray(collected.negative_texts, np.int64)[order]
    negative_groups = groups[negative_texts]
    # duplicates that were merged bring some of the same negatives, and may bring the document itself
    kept = negative_texts != last[negative_rows]
    kept &= _first_of_each(negative_rows * len(groups) + negative_texts)
    fit = kept & ~(train[negative_rows] & heldout_groups[negative_groups])
    is_triplet = kinds == list(KINDS).index("triplet")
    train &= ~is_triplet | _any(fit, negative_rows, rows)
    train_groups = np.zeros(len(groups), bool)
    train_groups[own_groups[train[own_rows]]] = True
    train_groups[negative_groups[fit & train[negative_rows]]] = True
    fit &= ~(heldout[negative_rows] & train_groups[negative_groups])

    removed = (kept & ~fit) & (train | heldout)[negative_rows]
    for number, counts in enumerate(collected.counts.values()):
        ours = sources == number
        counts.near_duplicates = int((ours & ~distinct).sum())
        counts.overlap = int((ours & distinct & ~heldout & ~train).sum())
        counts.negatives_removed = int(removed[ours[negative_rows]].sum())
        counts.train, counts.heldout = int((ours & train).sum()), int((ours & heldout).sum())
    starts = np.searchsorted(negative_rows, np.arange(rows + 1))
    heldout_groups[negative_groups[fit & heldout[negative_rows]]] = True
    sides = Sides(train=hashes[train_groups[groups]], heldout=hashes[heldout_groups[groups]])
    return _Decided(sources, train, heldout, starts, fit, sides)


def _smallest(
    heldout: Mask,
    sources: npt.NDArray[np.int64],
    split_hashes: npt.NDArray[np.uint64],
    tie_hashes: npt.NDArray[np.uint64],
    most: int,
) -> Mask:
    """Keep `most` of the held-out rows of each source, those with the smallest hashes."""
    kept = np.zeros_like(heldout)
    for number in np.unique(sources):
        rows = np.flatnonzero(heldout & (sources == number))
        kept[rows[np.lexsort((tie_hashes[rows], split_hashes[rows]))[:most]]] = True
    return kept


def _any(flags: Mask, rows: npt.NDArray[np.int64], count: int) -> Mask:
    """[count] whether any of the flags that belong to a row is set."""
    return np.bincount(rows[flags], minlength=count) > 0


def _first_of_each(values: npt.NDArray[np.int64]) -> Mask:
    first = np.zeros(len(values), bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first


def _no_training_examples(name: str, counts: _Counts) -> DataError:
    listed = ", ".join(f"{value:,} {key.replace('_', ' ')}" for key, value in counts.as_dict().items() if value)
    return DataError(
        f"source {name!r} is left with no training examples ({listed}): "
        "give it more rows, lower `min_chars` or `heldout_fraction`, or take the source out"
    )


# ------------------------------------------------------------------------------------ second pass: write


def _write(data: Data, collected: _Collected, decided: _Decided, spool: Path, folder: Path) -> dict[str, Any]:
    """Filter the spooled rows into the two tables of each source; returns name → its entry of the manifest."""
    entries: dict[str, Any] = {}
    for number, source in enumerate(data.sources):
        kind = collected.kinds[source.name]
        tables = _write_source(number, source.name, kind, collected, decided, spool, folder)
        entries[source.name] = _entry(
            source, kind, collected.counts[source.name], collected.malformed[source.name], tables
        )
    return entries


def _entry(
    source: Source, kind: str, counts: _Counts, malformed: list[str], tables: dict[Half, dict[str, Any]]
) -> dict[str, Any]:
    if not counts.train:
        raise _no_training_examples(source.name, counts)
    return {"kind": kind, "weight": source.weight, "counts": counts.as_dict(), "malformed": malformed, **tables}


def _manifest(data: Data, entries: dict[str, Any]) -> dict[str, Any]:
    sources = {source.name: entries[source.name] for source in data.sources}
    checksums = [entry[half]["sha256"] for entry in sources.values() for half in HALVES]
    return {"format": FORMAT, "fingerprint": fingerprint_of(checksums), "sources": sources}


def _write_source(
    number: int, name: str, kind: str, collected: _Collected, decided: _Decided, spool: Path, folder: Path
) -> dict[Half, dict[str, Any]]:
    masks: dict[Half, Mask] = {"train": decided.train, "heldout": decided.heldout}
    with half_tables(folder, number, name, kind) as tables:
        row = int(np.searchsorted(decided.sources, number))  # rows are in the order of the sources
        for batch in _spooled(_spool_file(spool, number)):
            if kind == "triplet":
                batch = _with_negatives(batch, row, collected.more_negatives, decided)
            for half, mask in masks.items():
                tables[half].write(batch.filter(pa.array(mask[row : row + batch.num_rows])))
            row += batch.num_rows
    return described(tables)


def _spooled(path: Path) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as file:
        reader = pa.ipc.open_file(file)
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)


def _with_negatives(batch: pa.RecordBatch, row: int, more: dict[int, list[str]], decided: _Decided) -> pa.RecordBatch:
    """Replace the negatives of spooled triplets, the first of which is `row`, by those that were kept."""
    column = batch.schema.get_field_index("negatives")
    negatives = []
    for offset, own in enumerate(batch.column(column).to_pylist()):
        start, end = decided.negative_starts[row + offset : row + offset + 2]
        kept = decided.negative_kept[start:end]
        every = [*own, *more.get(row + offset, [])]
        negatives.append([text for text, keep in zip(every, kept, strict=True) if keep])
    field = batch.schema.field(column)
    return batch.set_column(column, field, pa.array(negatives, field.type))


# ------------------------------------------------------------------------------------ third pass: derive


def _derive(data: Data, entries: dict[str, Any], sides: Sides, folder: Path, progress: Progress | None) -> None:
    """Make the sources that are made of others, in their order, and add their entries of the manifest."""
    for source in data.sources:
        if isinstance(source, DerivedSource):
            of: dict[Half, ExampleTable] = {
                half: ExampleTable(
                    folder / entries[source.of][half]["file"],
                    kind=entries[source.of]["kind"],
                    source=source.of,
                    weight=1.0,
                )
                for half in HALVES
            }
            made = derive(source, of, data, sides, folder=folder, number=len(entries), progress=progress)
            sides = made.sides
            entries[source.name] = _entry(source, KIND, _Counts(**made.counts), [], made.tables)
