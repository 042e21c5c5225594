"""Rows of input files: plain lines, JSON lines or Parquet, file after file, never all of them in memory."""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from limbeck.errors import ConfigError, DataError
from limbeck.files import sha256_file

if TYPE_CHECKING:
    import pyarrow.parquet as pq

Id: TypeAlias = str | int
Kind: TypeAlias = Literal["lines", "json", "parquet"]

_JSON = (".jsonl", ".ndjson")
_ENDINGS = (".txt", *_JSON)  # of files that a folder is searched for, and of these packed by gzip; also .parquet
_HOLDS = {"lines": "plain lines", "json": "JSON lines", "parquet": "Parquet"}
_PARQUET_ROWS = 1024  # read at a time
_COUNTED_BYTES = 2**28  # lines of larger inputs are not counted beforehand: half a second is the most this takes


class Row(NamedTuple):
    """A text, its id where that was asked for, and where it stands: "line 3", or "b.txt:3" among several files."""

    text: str
    id: Id | None
    place: str


@dataclass(frozen=True, slots=True)
class Inputs:
    """Files of one kind, in the order in which they are read."""

    files: tuple[str, ...]  # "-" alone is standard input
    kind: Kind
    field: str | None  # of JSON lines, or column of Parquet, that holds the text
    id: str | None  # likewise the id, if it is wanted
    id_is: str = "id"  # what messages call it
    of_many: bool = False  # beside others that are read apart: places name the file


def find_inputs(
    sources: Sequence[str], *, field: str | None = None, id: str | None = None, id_is: str = "id"
) -> Inputs:
    """Find the files that a command line names, and look into Parquet files for the columns.

    Args:
        sources: files of one kind (".gz" is unpacked), or folders of them, whose files with a known ending are taken in
            the order of their names; or "-" alone, standard input.
        field: of the JSON objects, or column, that holds the text; None = plain lines.
        id: of the JSON objects, or column, that holds an id, text or whole number.
        id_is: what messages call it, where it is a label.

    Raises:
        ConfigError: JSON lines or Parquet without `field`, plain lines with `id`, files of several kinds, none.
        DataError: no such file, no known file in a folder, a torn Parquet file, one without these columns.
    """
    if not sources:
        raise ConfigError("there is nothing to read: name a file or a folder, or - for standard input")
    if "-" in sources and len(sources) > 1:
        raise ConfigError("standard input (-) is read alone: encode files apart from it")
    files = tuple(file for source in sources for file in files_of(source))
    kinds: dict[Kind, str] = {_kind(file, field): file for file in files}
    if len(kinds) > 1:
        mixed = " and ".join(f"{file} ({_HOLDS[kind]})" for kind, file in kinds.items())
        raise ConfigError(f"inputs are of one kind, got {mixed}: encode them apart")
    [kind] = kinds
    _check_fields(files[0], kind, field, id)
    if kind == "parquet":
        for file in files:
            _check_columns(file, field, id)
    return Inputs(files, kind, field, id, id_is)


def check_name(file: str, *, field: str | None, id: str | None) -> None:
    """Raise ConfigError, as `find_inputs`, for what the name of a file tells: nothing is opened."""
    kind = _kind(file, field)
    if field is None and kind == "parquet":
        raise ConfigError(f"{file} is Parquet: name the column of the text, e.g. --field text")
    _check_fields(file, kind, field, id)


def read_rows(inputs: Inputs) -> Iterator[Row]:
    """Read row after row.

    Raises DataError that names the line: not UTF-8, not JSON, no text or id in its field, an id of another type than
    those before. Also for what cannot be unpacked, and for no rows at all.
    """
    rows_of = {"lines": _lines, "json": _json_rows, "parquet": _parquet_rows}[inputs.kind]
    id_type: type | None = None
    row = None
    for file in inputs.files:
        unit, before = ("row", f"{file}, row ") if inputs.kind == "parquet" else ("line", f"{_name(file)}:")
        short = f"{unit} " if len(inputs.files) == 1 and not inputs.of_many else before
        for number, row in enumerate(rows_of(file, inputs), start=1):
            if inputs.field is None:
                yield Row(row, None, f"{short}{number}")
                continue
            text = _text(row, inputs.field, f"{before}{number}")
            id = None
            if inputs.id is not None:
                id = _id(row, inputs, id_type, f"{before}{number}")
                id_type = type(id)
            yield Row(text, id, f"{short}{number}")
    if row is None:
        raise DataError(f"{' and '.join(map(_name, inputs.files[:3]))} holds no texts")


def count_rows(inputs: Inputs) -> int | None:
    """How many rows there are, where that takes no time to find out; else None."""
    if inputs.kind == "parquet":
        return sum(_counted_rows(file) for file in inputs.files)
    paths = [Path(file) for file in inputs.files]
    if any(path.suffix == ".gz" or not path.is_file() for path in paths):
        return None
    if sum(path.stat().st_size for path in paths) > _COUNTED_BYTES:
        return None
    return sum(_counted_lines(path) for path in paths)


def raw_lines(inputs: Inputs) -> Iterator[bytes]:
    """The lines of `read_rows`, each as its file has it but for the end of line. Not for Parquet."""
    for file in inputs.files:
        with _opened(file) as lines:
            for line in lines:
                yield line.rstrip(b"\r\n")


def identities(inputs: Inputs) -> list[dict[str, str | int]]:
    """What tells whether inputs are the same again: name, bytes and sha256 of each file.

    Raises ConfigError for what cannot be read twice, such as standard input.
    """
    for file in inputs.files:
        if not Path(file).is_file():
            raise ConfigError(
                f"shards are resumed by reading the input again, and {_name(file)} cannot be: write it to a file, or "
                "give one file as --out"
            )
    paths = [Path(file) for file in inputs.files]
    return [{"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in paths]


def files_of(source: str) -> list[str]:
    """The file that a source is, or those of a folder with a known ending, by name. Raises DataError: there is none."""
    if source == "-":
        return [source]
    path = Path(source)
    if not path.exists():
        raise DataError(f"no such file: {source}")
    if not path.is_dir():
        return [source]
    known = sorted(p for p in path.iterdir() if p.is_file() and is_known(p.name))
    if not known:
        raise none_known(source)
    return [str(p) for p in known]


def is_known(name: str) -> bool:
    """Whether a file of this name is read where its folder is named."""
    name = name.lower()
    return not name.startswith(".") and (name.endswith(".parquet") or name.removesuffix(".gz").endswith(_ENDINGS))


def none_known(source: str) -> DataError:
    """What is said of a folder without any such file."""
    return DataError(f"{source} holds no {', '.join(_ENDINGS)} (packed or not) or .parquet file: name the files")


def _check_fields(file: str, kind: Kind, field: str | None, id: str | None) -> None:
    if field is None and kind == "json":
        raise ConfigError(f"{file} holds JSON: name the field of the text, e.g. --field text")
    if id is not None and kind == "lines":
        raise ConfigError(f"plain lines have no field {id!r}: name that of the text too (--field) if they are JSON")


def _kind(file: str, field: str | None) -> Kind:
    stem = file.lower().removesuffix(".gz")
    if stem.endswith(".parquet"):
        return "parquet"
    return "json" if field is not None or stem.endswith(_JSON) else "lines"


def _name(file: str) -> str:
    return "standard input" if file == "-" else file


# ------------------------------------------------------------------------------------------------ lines


def _lines(file: str, inputs: Inputs) -> Iterator[str]:
    name = _name(file)
    try:
        with _opened(file) as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    yield line.decode("utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{name}:{number}: not UTF-8 ({error.reason}, byte {error.start + 1} of the line): convert the "
                        "file, e.g. with `iconv -f latin1 -t utf-8`"
                    ) from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{name} cannot be unpacked ({error}): copy it anew, or unpack it by hand") from None


def _json_rows(file: str, inputs: Inputs) -> Iterator[Any]:
    for number, line in enumerate(_lines(file, inputs), start=1):
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
            raise DataError(f"{_name(file)}:{number}: not JSON ({error})") from None


@contextmanager
def _opened(file: str) -> Iterator[Iterable[bytes]]:
    if file == "-":
        yield sys.stdin.buffer  # not its text: whether that is UTF-8 depends on the locale
    else:
        with gzip.open(file, "rb") if file.endswith(".gz") else open(file, "rb") as lines:
            yield lines


def _counted_lines(path: Path) -> int:
    with open(path, "rb") as lines:
        return sum(1 for _ in lines)


# ---------------------------------------------------------------------------------------------- Parquet


@contextmanager
def _parquet(file: str) -> Iterator[pq.ParquetFile]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file, memory_map=True) as opened:
            yield opened
    except (pa.ArrowInvalid, OSError) as error:  # OSError: a page that is torn
        raise DataError(f"{file} is torn or not Parquet ({error}): fetch it again") from None


def _check_columns(file: str, field: str | None, id: str | None) -> None:
    with _parquet(file) as opened:
        names = opened.schema_arrow.names
    has = f"it has {', '.join(names) or 'none'}"
    if field is None:
        raise ConfigError(f"{file} is Parquet: name the column of the text, e.g. --field text; {has}")
    for column in (field, id):
        if column is not None and column not in names:
            raise DataError(f"{file} has no column {column!r}; {has}")


def _parquet_rows(file: str, inputs: Inputs) -> Iterator[dict[str, Any]]:
    columns = [name for name in (inputs.field, inputs.id) if name is not None]
    done = 0
    with _parquet(file) as opened:
        for batch in opened.iter_batches(_PARQUET_ROWS, columns=columns):
            try:
                rows = batch.to_pylist()
            except UnicodeDecodeError as error:
                last = done + batch.num_rows
                raise DataError(
                    f"{file}: not UTF-8 in one of the rows {done + 1:,} to {last:,} ({error.reason}): write it anew"
                ) from None
            yield from rows
            done += len(rows)


def _counted_rows(file: str) -> int:
    with _parquet(file) as opened:
        return opened.metadata.num_rows


# --------------------------------------------------------------------------------------------- values


def _text(row: Any, field: str, place: str) -> str:
    text = row.get(field) if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise DataError(f"{place}: no text in field {field!r}, {_held(row, field)}")
    return text


def _id(row: Any, inputs: Inputs, before: type | None, place: str) -> Id:
    field, what = inputs.id or "", inputs.id_is
    id = row.get(field)
    whole = isinstance(id, int) and not isinstance(id, bool) and -(2**63) <= id < 2**63
    if not whole and not isinstance(id, str):
        raise DataError(
            f"{place}: no {what} (text, or whole number of 64 bits) in field {field!r}, {_held(row, field)}"
        )
    if before is not None and type(id) is not before:
        raise DataError(f"{place}: {what} {id!r} is of type {type(id).__name__}, those before are {before.__name__}")
    return id


def _held(row: Any, field: str) -> str:
    if isinstance(row, dict) and field in row:
        return f"it holds {'null' if row[field] is None else f'{row[field]!r:.40}'}"
    return f"the row has {', '.join(row) if isinstance(row, dict) else type(row).__name__}"
