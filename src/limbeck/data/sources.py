"""Sources → typed examples, one at a time: JSONL, CSV and Parquet files, Hugging Face datasets, and the corpora.

A row that does not fit is reported with file, line and reason, counted, and skipped up to the source's
`max_malformed`; the next one stops the run. Nothing is read whole: memory holds one row, or one batch of Parquet.
"""

from __future__ import annotations

import csv
import glob
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, cast

from limbeck.config import Columns, DebianPackagesSource, DerivedSource, FileSource, HubSource, PythonDocsSource, Source
from limbeck.data.examples import Example
from limbeck.data.rows import Malformed, Row, mapped_fields, row_reader
from limbeck.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN_MALFORMED = 20  # descriptions kept in a report
_BATCH_ROWS = 1024
_MAX_FIELD_CHARS = 1 << 28  # of one CSV field: a stray quote swallows what follows, and must not fill the memory

Numbered: TypeAlias = tuple[int, Row | Malformed]  # line or row, from 1


@dataclass
class ReadReport:
    """What came out of a source so far."""

    rows: int = 0  # read, malformed ones included
    malformed: int = 0
    shown: list[str] = field(default_factory=list)  # "file:line: reason" of the first SHOWN_MALFORMED


def read_source(source: Source, *, report: ReadReport | None = None) -> Iterator[Example]:
    """Yield the examples of `source` in its order; `report` is kept up to date while reading.

    Raises DataError, always naming the source: a path that matches nothing, an unreadable or torn file, a missing
    column, a dataset that cannot be had, more malformed rows than `max_malformed`, no rows at all, or a derived source.
    """
    report = report if report is not None else ReadReport()
    if isinstance(source, DerivedSource):
        raise DataError(
            f"source {source.name!r} is made of {source.of!r} and cannot be read by itself: prepare both with "
            "limbeck.data.prepare, and read its table there"
        )
    if isinstance(source, (FileSource, HubSource)):
        yield from _rows_to_examples(source, report)
    else:
        for example in _corpus(source):
            report.rows += 1
            yield example
    if not report.rows:
        raise DataError(f"source {source.name!r} is empty: {_origin(source)} gives no rows")


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of one file with all their fields, whatever they are called.

    Raises DataError as `read_source` does, and for the first malformed row, by file and line.
    """
    return (row for _, row in located_rows(path))


def located_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """As `read_rows`, each row with its place, "file:line"."""
    # validation would ask which field is what; nothing mapped = all fields
    source = FileSource.model_construct(name=path.name, path=str(path), columns=Columns.model_construct())
    for place, row in _located_rows(source):
        if isinstance(row, Malformed):
            raise DataError(f"{place}: {row}: mend the row or take it out")
        yield place, row


def located_json(lines: Iterable[bytes], name: str) -> Iterator[tuple[str, Row]]:
    """As `located_rows`, of JSON lines that are no file, such as standard input."""
    for number, row in _json_lines(lines):
        if isinstance(row, Malformed):
            raise DataError(f"{name}:{number}: {row}: mend the row or take it out")
        yield f"{name}:{number}", row


def _corpus(source: PythonDocsSource | DebianPackagesSource) -> Iterator[Example]:
    from limbeck.data import corpora

    if isinstance(source, PythonDocsSource):
        return iter(corpora.python_docs(source))
    return iter(corpora.debian_packages(source))


def _rows_to_examples(source: FileSource | HubSource, report: ReadReport) -> Iterator[Example]:
    to_example = row_reader(source.columns, lang=source.lang, score_range=source.score_range)
    for place, row in islice(_located_rows(source), source.max_rows):
        report.rows += 1
        try:
            if isinstance(row, Malformed):
                raise row
            example = to_example(place, row)
        except Malformed as reason:
            _note_malformed(source, report, f"{place}: {reason}")
            continue
        yield example


def _note_malformed(source: FileSource | HubSource, report: ReadReport, description: str) -> None:
    report.malformed += 1
    if len(report.shown) < SHOWN_MALFORMED:
        report.shown.append(description)
    if report.malformed <= source.max_malformed:
        return
    shown = report.shown if description in report.shown else [*report.shown, "...", description]
    raise DataError(
        f"source {source.name!r} has {report.malformed} malformed rows in the first {report.rows:,}, "
        f"{source.max_malformed} are allowed:\n  " + "\n  ".join(shown) + "\n"
        "Mend the rows, or set `max_malformed:` of this source to how many may be skipped."
    )


def _located_rows(source: FileSource | HubSource) -> Iterator[tuple[str, Row | Malformed]]:
    if isinstance(source, HubSource):
        parts = [source.dataset, source.subset, source.split]
        name = "/".join(part for part in parts if part)
        for number, row in _read_hub(source):
            yield f"{name}:{number}", row
        return
    for path in _matches(source):
        read = _reader(path, source)
        with _readable(path, source):
            for number, row in read(path, source):
                yield f"{path}:{number}", row


def _origin(source: Source) -> str:
    if isinstance(source, FileSource):
        return ", ".join(map(str, _matches(source)))
    return f"dataset {source.dataset!r}" if isinstance(source, HubSource) else f"the corpus {source.type}"


# --------------------------------------------------------------------------------------------- files


def _matches(source: FileSource) -> list[Path]:
    """Files that the paths and globs of a source name, each once: in the order written, sorted within a glob."""
    patterns = [source.path] if isinstance(source.path, str) else source.path
    found: dict[Path, None] = {}
    for pattern in patterns:
        literal = Path(pattern).expanduser()
        names = [str(literal)] if literal.exists() else sorted(glob.glob(str(literal), recursive=True))
        if not names:
            raise DataError(
                f"source {source.name!r}: nothing matches {pattern!r} (looked from {Path.cwd()}): check `path:`"
            )
        found.update(dict.fromkeys(Path(name) for name in names))
    return list(found)


def _reader(path: Path, source: FileSource) -> Callable[[Path, FileSource], Iterator[Numbered]]:
    if path.is_dir():
        raise DataError(f"source {source.name!r}: {path} is a folder, files are expected: write `{path}/*.jsonl`")
    endings = {".jsonl": _read_jsonl, ".ndjson": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
    reader = endings.get(Path(path.name.removesuffix(".gz")).suffix.lower())
    if reader is None or (reader is _read_parquet and path.suffix == ".gz"):
        known = "*.jsonl, *.jsonl.gz, *.csv, *.csv.gz or *.parquet"
        raise DataError(f"source {source.name!r}: the ending of {path} is not known, expected {known}: rename the file")
    return reader


@contextmanager
def _readable(path: Path, source: FileSource) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"source {source.name!r}: {path} is torn or not gzip ({error}): fetch or compress it again"
        ) from None
    except OSError as error:
        raise DataError(f"source {source.name!r}: {path} cannot be read ({error.strerror or error})") from None


def _open(path: Path) -> BinaryIO:
    # a GzipFile is a binary stream in all but its declared type
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else open(path, "rb")


def _read_jsonl(path: Path, source: FileSource) -> Iterator[Numbered]:
    with _open(path) as lines:
        yield from _json_lines(lines)


def _json_lines(lines: Iterable[bytes]) -> Iterator[Numbered]:
    for number, line in enumerate(lines, start=1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            yield number, _parse_json(line)


def _parse_json(line: bytes) -> Row | Malformed:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return Malformed(f"not valid UTF-8: byte 0x{line[error.start]:02x} at position {error.start}")
    except json.JSONDecodeError as error:
        return Malformed(f"not valid JSON: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, a thousand brackets
        return Malformed(f"not valid JSON: {error}")
    if not isinstance(row, dict):
        return Malformed(f"expected a JSON object, got a {type(row).__name__}")
    return row


def _read_csv(path: Path, source: FileSource) -> Iterator[Numbered]:
    csv.field_size_limit(_MAX_FIELD_CHARS)  # the limit is global, and 131,072 characters unless raised
    # surrogateescape: an undecodable byte then spoils one row, not the file
    with io.TextIOWrapper(_open(path), "utf-8-sig", "surrogateescape", newline="") as text:
        reader = csv.reader(text, strict=True)
        header = _csv_header(reader, path, source)
        while header:
            number = reader.line_num + 1  # of the row's first line: a quoted field may hold more
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "unexpected end of data" in str(error):
                    raise DataError(
                        f"source {source.name!r}: {path}:{number}: a quote that opens in this row is never closed, "
                        "which leaves the rest of the file unreadable: close or double it"
                    ) from None
                yield number, Malformed(f"not valid CSV: {error}")
                continue
            if fields:  # a blank line is no row
                yield number, _csv_row(header, fields, source)


def _csv_header(reader: Iterator[list[str]], path: Path, source: FileSource) -> list[str]:
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise DataError(f"source {source.name!r}: the header of {path} is not valid CSV: {error}") from None
    if len(set(header)) != len(header):
        raise DataError(f"source {source.name!r}: the header of {path} names a column twice: {', '.join(header)}")
    if header:
        _check_columns(source, str(path), header)
    return header


def _csv_row(header: list[str], fields: list[str], source: FileSource) -> Row | Malformed:
    if len(fields) != len(header):
        return Malformed(f"{len(fields)} fields, the header has {len(header)}")
    for value in fields:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return Malformed(f"not valid UTF-8: byte 0x{ord(value[error.start]) - 0xDC00:02x}")
    row: dict[str, Any] = dict(zip(header, fields, strict=True))
    score = source.columns.score
    if score:  # CSV knows no numbers
        try:
            row[score] = float(row[score])
        except ValueError:
            return Malformed(f"{score!r} is {row[score]!r:.40}, expected a number")
    return row


def _check_columns(source: FileSource | HubSource, where: str, names: list[str]) -> None:
    missing = [name for name in mapped_fields(source.columns) if name not in names]
    if missing:
        raise DataError(
            f"source {source.name!r}: {where} has no column {', '.join(map(repr, missing))}; "
            f"it has {', '.join(map(repr, names))}: correct `columns:`"
        )


def _read_parquet(path: Path, source: FileSource) -> Iterator[Numbered]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            _check_columns(source, str(path), file.schema_arrow.names)
            batches = file.iter_batches(_BATCH_ROWS, columns=mapped_fields(source.columns) or None)
            yield from enumerate(_batch_rows(batches), start=1)
    except pa.ArrowInvalid as error:
        raise DataError(f"source {source.name!r}: {path} is torn or not Parquet ({error}): fetch it again") from None


def _batch_rows(batches: Iterator[pa.RecordBatch] | Iterator[pa.Table]) -> Iterator[Row | Malformed]:
    for batch in batches:
        try:
            yield from batch.to_pylist()
        except UnicodeDecodeError:  # before any row of the batch was given, as the conversion comes first
            for index in range(batch.num_rows):
                try:
                    yield batch.slice(index, 1).to_pylist()[0]
                except UnicodeDecodeError as error:
                    yield Malformed(f"not valid UTF-8: byte 0x{error.object[error.start]:02x}")


# ----------------------------------------------------------------------------------- Hugging Face datasets


def _read_hub(source: HubSource) -> Iterator[Numbered]:
    dataset = _load_dataset(source)
    names = list(dataset.column_names)
    _check_columns(source, f"dataset {source.dataset!r}", names)
    wanted = mapped_fields(source.columns)
    classes = {name: found for name in wanted if (found := _class_names(dataset.features[name]))}
    batches = dataset.select_columns(wanted).with_format("arrow").iter(batch_size=_BATCH_ROWS)
    for number, row in enumerate(_batch_rows(batches), start=1):
        yield number, _with_class_names(row, classes)


def _load_dataset(source: HubSource) -> Any:
    """Load one split as a memory-mapped `datasets.Dataset`. Raises DataError that says what was asked."""
    import datasets

    folder = Path(source.dataset).expanduser()
    try:
        if (folder / "dataset_info.json").is_file() or (folder / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(str(folder))
        else:
            # no remote code can run: `datasets` dropped loading scripts in version 4
            path = str(folder) if folder.is_dir() else source.dataset
            loaded = datasets.load_dataset(path, source.subset, split=source.split, revision=source.revision)
    except Exception as error:  # `datasets` lets through whatever its back ends raise
        raise DataError(_why_not_loaded(source, folder, error)) from error
    if isinstance(loaded, datasets.DatasetDict):
        if source.split not in loaded:
            have = ", ".join(map(str, loaded))
            raise DataError(f"source {source.name!r}: {folder} has no split {source.split!r}, it has {have}")
        loaded = loaded[source.split]
    return loaded


def _why_not_loaded(source: HubSource, folder: Path, error: Exception) -> str:
    asked = [f"dataset {source.dataset!r}", f"split {source.split!r}"]
    asked += [f"subset {source.subset!r}"] if source.subset else []
    asked += [f"revision {source.revision!r}"] if source.revision else []
    cause = str(error).strip().splitlines() or [""]
    message = f"source {source.name!r}: cannot load {', '.join(asked)}: {type(error).__name__}: {cause[0]}\n"
    if folder.is_dir():
        return message + f"{folder} is a local folder: expected one that `datasets` has saved, or one of data files."
    return message + (
        "No such local folder, so the Hugging Face hub was asked: check the name and the network. For a machine "
        "without network, run `datasets.load_dataset(...).save_to_disk(folder)` where there is one and set "
        "`dataset:` to that folder."
    )


def _class_names(feature: Any) -> list[str] | None:
    """Names of the classes where a column holds class numbers, or lists of them."""
    inner = getattr(feature, "feature", feature)
    return getattr(inner, "names", None)


def _with_class_names(row: Row | Malformed, classes: dict[str, list[str]]) -> Row | Malformed:
    if isinstance(row, Malformed) or not classes:
        return row
    named = dict(row)
    for column, names in classes.items():
        value = row[column]
        numbers = value if isinstance(value, list) else [value]
        if any(number is not None and not 0 <= number < len(names) for number in numbers):
            return Malformed(f"{column!r} is class {value}, the dataset names 0 to {len(names) - 1}")
        labels = [None if number is None else names[number] for number in numbers]
        named[column] = labels if isinstance(value, list) else labels[0]
    return named
