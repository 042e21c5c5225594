"""What is searched: documents with ids, from a file, a run's prepared data, or a corpus of this machine."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import logging
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.errors import DataError
from limbeck.files import atomic_write

if TYPE_CHECKING:
    from limbeck.data.examples import Example

logger = logging.getLogger(__name__)

_MACHINE_CORPORA = ("python-docs", "debian-packages")
ID_FIELDS = ("id", "_id")  # `_id` is what BEIR-style files call it


@dataclass(frozen=True, slots=True)
class Corpus:
    """Documents and their ids, in one order. Ids of a file are unique; those of other corpora name, but may repeat."""

    name: str
    ids: list[str]
    documents: list[str]


def load_corpus(spec: str | Path, *, cache_dir: Path | None = None) -> Corpus:
    """Read the corpus that a command line names.

    Args:
        spec: a JSONL, CSV (both also .gz) or Parquet file with the fields `id` (or `_id`), `text` and, if it has one,
            `title`; a run folder such as runs/demo, or its `data` folder: every document of its sources of pairs,
            triplets and texts (of all, if it has none), training and held out; or "python-docs" or "debian-packages".
        cache_dir: where the texts of python-docs are kept, since reading every source file takes long; None = nowhere.

    Raises DataError: nothing there, no documents, a file without these fields, an id that occurs twice, a malformed
    row.
    """
    path = Path(spec).expanduser()
    if path.is_dir():
        corpus = _from_run(path)
    elif path.is_file():
        corpus = _from_file(path)
    elif str(spec) in _MACHINE_CORPORA:
        corpus = _from_machine(str(spec), cache_dir)
    else:
        raise DataError(
            f"no corpus {str(spec)!r}: give a .jsonl, .csv or .parquet file with the fields id and text, a run folder, "
            f"or one of {', '.join(_MACHINE_CORPORA)}"
        )
    if not corpus.documents:
        raise DataError(f"corpus {str(spec)!r} holds no documents")
    return corpus


# ---------------------------------------------------------------------------------------------- files


def _from_file(path: Path) -> Corpus:
    from limbeck.config import Columns, FileSource
    from limbeck.data.examples import LabelledText
    from limbeck.data.sources import read_source

    names = _field_names(path)
    id_field = next((name for name in ID_FIELDS if name in names), None)
    if id_field is None or "text" not in names:
        raise DataError(f"{path} needs the fields id and text (title is optional), it has {', '.join(names) or 'none'}")
    # The id rides along as the one label of a labelled text, which the reader checks and locates like any field.
    columns = Columns(text="text", title="title" if "title" in names else None, labels=id_field)
    corpus = Corpus(path.name, [], [])
    places: dict[str, str] = {}
    for row in read_source(FileSource(name=path.name, path=str(path), columns=columns)):
        assert isinstance(row, LabelledText)
        if len(row.labels) != 1:
            raise DataError(f"{row.id}: {id_field!r} must be one text or number, got {list(row.labels)}")
        identity = row.labels[0]
        if identity in places:
            raise DataError(f"{row.id}: id {identity!r} is already that of {places[identity]}: ids must be unique")
        places[identity] = row.id
        corpus.ids.append(identity)
        corpus.documents.append(row.text)
    return corpus


def _field_names(path: Path) -> list[str]:
    """Fields of the header, of the schema, or of the JSON rows up to the first that has them all."""
    kind = Path(path.name.removesuffix(".gz")).suffix.lower()
    if kind == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.read_schema(path).names
        except pa.ArrowInvalid as error:
            raise DataError(f"{path} is torn or not Parquet ({error}): fetch it again") from None
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as raw:
            with io.TextIOWrapper(raw, "utf-8-sig", "replace", newline="") as text:
                return next(csv.reader(text), []) if kind == ".csv" else _json_fields(text)
    except (OSError, EOFError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _json_fields(lines: Iterable[str]) -> list[str]:
    """Fields of the first row; what else is wrong with a row is the reader's to say, with its line."""
    for line in lines:
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            first = list(row) if isinstance(row, dict) else ["id", "text"]
            return first if "title" in first else [*first, "title"]  # later rows may have one, none needs it
    return ["id", "text"]  # an empty file: the reader says so


# ------------------------------------------------------------------------------- runs and this machine


def _from_run(folder: Path) -> Corpus:
    from limbeck.data.tables import Prepared

    data = folder / "data" if (folder / "data").is_dir() else folder
    prepared = Prepared.open(data)

    # sides of a scored pair, and texts that carry a label, are for training: searched only where there is nothing else
    searchable = [s for s in prepared.sources.values() if s.train.kind in ("pair", "triplet", "text")]

    def documents() -> Iterator[tuple[str, str]]:
        for split in searchable or prepared.sources.values():
            for table in (split.heldout, split.train):
                yield from zip(table.ids, table.texts(table.roles[-1]), strict=True)

    return _distinct(str(folder), documents())


def _from_machine(name: str, cache_dir: Path | None) -> Corpus:
    from limbeck.config import DebianPackagesSource, PythonDocsSource
    from limbeck.data.sources import read_source

    if name == "debian-packages":
        return _distinct(name, map(_document, read_source(DebianPackagesSource())))
    source = PythonDocsSource()
    kept = cache_dir / f"python-docs-{_environment_digest(source.model_dump_json())}.jsonl" if cache_dir else None
    if kept and (corpus := _read_kept(name, kept)):
        return corpus
    corpus = _distinct(name, map(_document, read_source(source)))
    if kept:
        _keep(corpus, kept)
    return corpus


def _document(example: Example) -> tuple[str, str]:
    from limbeck.data.examples import Pair

    return example.id, example.document if isinstance(example, Pair) else example.text


def _distinct(name: str, documents: Iterable[tuple[str, str]]) -> Corpus:
    """Each text once, under its first id: one document may belong to many queries."""
    first: dict[str, str] = {}
    for identity, text in documents:
        first.setdefault(text, identity)
    return Corpus(name, list(first.values()), list(first))


def _environment_digest(source: str) -> str:
    """Changes when a package is installed, removed or updated; edits to a package's files go unnoticed."""
    installed = sorted(f"{d.metadata['Name']}=={d.version}" for d in metadata.distributions())
    return hashlib.sha256("\n".join([source, sys.version, *installed]).encode()).hexdigest()[:16]


def _read_kept(name: str, path: Path) -> Corpus | None:
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return Corpus(name, [row["id"] for row in rows], [row["text"] for row in rows])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s cannot be used (%s): reading %s anew", path, error, name)
        return None


def _keep(corpus: Corpus, path: Path) -> None:
    try:
        with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8") as lines:
            for identity, text in zip(corpus.ids, corpus.documents, strict=True):
                # ASCII, so that no separator that splitlines() knows stands inside a row
                lines.write(json.dumps({"id": identity, "text": text}) + "\n")
    except OSError as error:
        logger.warning("the texts of %s were not kept for the next search: %s", corpus.name, error)
