"""The prepared folder as it is read: memory-mapped Arrow tables of examples, and the manifest beside them."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from limbeck.data.examples import Example, LabelledText, Pair, Role, ScoredPair, Text, Triplet
from limbeck.errors import DataError
from limbeck.files import read_json, sha256_file

FORMAT = "limbeck-data-1"
MANIFEST = "manifest.json"
KINDS: dict[str, type[Example]] = {
    "text": Text,
    "labelled_text": LabelledText,
    "pair": Pair,
    "triplet": Triplet,
    "scored_pair": ScoredPair,
}
_KIND_OF = {shape: kind for kind, shape in KINDS.items()}
_LISTS = ("negatives", "labels")


def kind_of(example: Example) -> str:
    """Key of KINDS for an example."""
    return _KIND_OF[type(example)]


def schema_of(kind: str) -> pa.Schema:
    """Arrow schema of a kind: one column for each field of its dataclass."""
    types = {"score": pa.float64(), **{name: pa.list_(pa.string()) for name in _LISTS}}
    required = {"id", "query", "document", "text", "score", *_LISTS}
    return pa.schema(
        [pa.field(f.name, types.get(f.name, pa.string()), nullable=f.name not in required) for f in fields(KINDS[kind])]
    )


class ExampleTable(Sequence[Example]):
    """Examples of one kind in a memory-mapped Arrow file: only what is touched is read from disk."""

    def __init__(self, path: Path, *, kind: str, source: str, weight: float) -> None:
        """Map the file. Raises DataError when it is absent, torn or of another kind."""
        self.path, self.kind, self.source, self.weight = path, kind, source, weight
        try:
            with pa.memory_map(str(path)) as file:
                self._table = pa.ipc.open_file(file).read_all()
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{path} cannot be read ({error}): delete {path.parent} to have it made again") from None
        if not self._table.schema.equals(schema_of(kind)):
            raise DataError(f"{path} does not hold {kind} examples: delete {path.parent} to have it made again")
        self._index()

    def _index(self) -> None:
        self._batches = self._table.to_batches()
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])

    def take(self, rows: npt.NDArray[np.int64]) -> ExampleTable:
        """The examples at these rows, in this order, copied into memory."""
        taken = copy.copy(self)
        taken.__dict__.pop("scores", None)
        taken._table = self._table.take(pa.array(rows))
        taken._index()
        return taken

    def __len__(self) -> int:
        """Return the number of examples."""
        return self._table.num_rows

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        """Return one example, or a list of them for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = int(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.path.name} holds {len(self)} examples, asked for number {index}")
        index %= len(self)
        batch = int(np.searchsorted(self._starts, index, side="right")) - 1
        row = self._batches[batch].slice(index - int(self._starts[batch]), 1).to_pylist()[0]
        return self._example(row)

    def __iter__(self) -> Iterator[Example]:
        """Yield the examples in order."""
        for batch in self._batches:
            yield from map(self._example, batch.to_pylist())

    def _example(self, row: dict[str, Any]) -> Example:
        for name in _LISTS:
            if name in row:
                row[name] = tuple(row[name])
        return KINDS[self.kind](**row)

    @property
    def roles(self) -> tuple[Role, ...]:
        """The texts that each example has: ("text",), or ("query", "document")."""
        return ("text",) if "text" in self._table.column_names else ("query", "document")

    def texts(self, role: Role) -> list[str]:
        """All texts of a role, as the student reads them."""
        return self._column(self._checked(role))

    def teacher_texts(self, role: Role) -> list[str]:
        """All texts of a role, as the teacher reads them: its own where the example has one, else the student's."""
        own = self._table.column(f"teacher_{self._checked(role)}")
        if own.null_count == len(self):
            return self.texts(role)
        return [own or text for own, text in zip(own.to_pylist(), self.texts(role), strict=True)]

    def _checked(self, role: Role) -> Role:
        if role not in self.roles:
            raise ValueError(
                f"source {self.source!r} holds {self.kind} examples with {' and '.join(self.roles)}, not {role!r}"
            )
        return role

    def _column(self, name: str) -> list[Any]:
        return self._table.column(name).to_pylist()

    @property
    def ids(self) -> list[str]:
        """Where each example came from."""
        return self._column("id")

    @property
    def lang(self) -> list[str | None]:
        """Language tag of each example."""
        return self._column("lang")

    @property
    def negatives(self) -> list[tuple[str, ...]]:
        """Negatives of each triplet; of another kind, empty tuples."""
        return self._tuples("negatives")

    @property
    def labels(self) -> list[tuple[str, ...]]:
        """Labels of each labelled text; of another kind, empty tuples."""
        return self._tuples("labels")

    def _tuples(self, name: str) -> list[tuple[str, ...]]:
        held = name in self._table.column_names
        return [tuple(values) for values in self._column(name)] if held else [()] * len(self)

    @cached_property
    def scores(self) -> npt.NDArray[np.float64]:
        """[N] scores of scored pairs. Raises ValueError for another kind."""
        if "score" not in self._table.column_names:
            raise ValueError(f"source {self.source!r} holds {self.kind} examples, which have no score")
        return self._table.column("score").to_numpy()


def evenly(texts: Sequence[str], count: int) -> list[str]:
    """So many of the texts, evenly spaced; all of them where they are fewer."""
    return [texts[int(i)] for i in np.linspace(0, len(texts) - 1, min(count, len(texts)))]


@dataclass(frozen=True)
class Split:
    """The two halves of a source, which share no text, nor do those of any two sources of one folder."""

    train: ExampleTable
    heldout: ExampleTable


@dataclass(frozen=True)
class Prepared:
    """A prepared folder, opened.

    `counts` has, per source: read = malformed + too_short + exact_duplicates + near_duplicates + without_query +
    shared_query + overlap + train + heldout, and negatives_removed (see `limbeck.data.prepare`). `malformed` has the
    first descriptions of malformed rows. `fingerprint` is a hash over the bytes of all tables: it changes when any
    example does.
    """

    path: Path
    sources: dict[str, Split]
    counts: dict[str, dict[str, int]]
    malformed: dict[str, list[str]]
    fingerprint: str

    @classmethod
    def open(cls, path: Path | str) -> Prepared:
        """Open a folder that `prepare` wrote. Raises DataError when it is absent, torn or not one."""
        path = Path(path)
        try:
            manifest = read_json(path / MANIFEST)
        except FileNotFoundError:
            raise DataError(
                f"{path} is not a prepared folder: it has no {MANIFEST}; delete it to have it made again"
            ) from None
        except ValueError as error:
            raise DataError(str(error)) from None
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise DataError(f"{path / MANIFEST} is not of format {FORMAT}: delete {path} to have it made again")
        sources = {
            name: Split(*(_open_table(path, name, entry, half) for half in ("train", "heldout")))
            for name, entry in manifest["sources"].items()
        }
        return cls(
            path=path,
            sources=sources,
            counts={name: entry["counts"] for name, entry in manifest["sources"].items()},
            malformed={name: entry["malformed"] for name, entry in manifest["sources"].items()},
            fingerprint=manifest["fingerprint"],
        )

    def sampled(self, share: float, *, seed: int) -> Prepared:
        """The same with a share of each source's training rows, drawn by the seed; held-out rows all stay.

        Another share or seed is another fingerprint. 0 < share ≤ 1; 1 = everything, whatever the seed.
        """
        if share == 1:
            return self
        sources = {}
        for number, (name, split) in enumerate(self.sources.items()):
            count = len(split.train)
            kept = np.random.default_rng([seed, number]).permutation(count)[: max(1, round(share * count))]
            sources[name] = Split(split.train.take(np.sort(kept)) if count else split.train, split.heldout)
        return replace(self, sources=sources, fingerprint=fingerprint_of([self.fingerprint, f"{share} {seed}"]))

    def verify(self) -> None:
        """Read every table again and compare with the manifest's checksums. Raises DataError that names the file."""
        for name, entry in read_json(self.path / MANIFEST)["sources"].items():
            for half in ("train", "heldout"):
                file = self.path / entry[half]["file"]
                if sha256_file(file) != entry[half]["sha256"]:
                    raise DataError(
                        f"{file} (source {name!r}) has changed since it was written: "
                        f"delete {self.path} to have it made again"
                    )


def _open_table(folder: Path, source: str, entry: dict[str, Any], half: str) -> ExampleTable:
    table = ExampleTable(folder / entry[half]["file"], kind=entry["kind"], source=source, weight=entry["weight"])
    if len(table) != entry[half]["rows"]:
        raise DataError(
            f"{table.path} has {len(table)} rows, {MANIFEST} says {entry[half]['rows']}: "
            f"delete {folder} to have it made again"
        )
    return table


def fingerprint_of(checksums: Iterable[str]) -> str:
    """Hex SHA-256 over the checksums of the tables, in the order of the manifest."""
    return hashlib.sha256("\n".join(checksums).encode()).hexdigest()


class TableWriter:
    """Writes batches of one schema to an Arrow IPC file, in chunks large enough to be read fast.

    The bytes depend on the rows alone: no time stamp, no library default that varies with the machine.
    """

    CHUNK_ROWS = 8192
    CHUNK_BYTES = 1 << 27  # far below the 2 GiB that the offsets of one Arrow string column can address

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        """Create the file."""
        self.path, self.rows = path, 0
        self._schema = schema
        self._sink = open(path, "wb")
        self._writer = pa.ipc.new_file(self._sink, schema)
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = self._waiting_bytes = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Append the rows of a batch."""
        self._waiting.append(batch)
        self._waiting_rows += batch.num_rows
        self._waiting_bytes += batch.nbytes
        if self._waiting_rows >= self.CHUNK_ROWS or self._waiting_bytes >= self.CHUNK_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._waiting_rows:
            for batch in pa.Table.from_batches(self._waiting, self._schema).combine_chunks().to_batches():
                self._writer.write_batch(batch)
        self.rows += self._waiting_rows
        self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0

    def close(self) -> None:
        """Write what is waiting and the footer, and sync the file to disk. Raises OSError on a full disk."""
        try:
            self._flush()
            self._writer.close()
            self._sink.flush()
            os.fsync(self._sink.fileno())
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the file without finishing it; nothing happens when it is closed."""
        with contextlib.suppress(OSError):  # the buffer cannot be written either when the disk is full
            self._sink.close()
