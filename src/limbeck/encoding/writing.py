"""Files of vectors, written chunk by chunk.  N: rows of the file, n: of a chunk, D: numbers of a row."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from limbeck.encoding.reading import Row
from limbeck.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

Format: TypeAlias = Literal["parquet", "arrow", "npy", "npz", "jsonl"]
"""The ending of a file of vectors."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows and their vectors."""

    rows: list[Row]  # n
    vectors: np.ndarray  # [n, D]
    scales: np.ndarray | None  # [n] float32; in int8 only


Write: TypeAlias = Callable[[Path, Iterator[Encoded], str | None], None]
"""Writes chunks, at least one, to a file. The last argument is the task, as on a command line, for the file to tell."""


def format_of(out: str, precision: str, *, ids: bool) -> Format:
    """The format of the file `out`, or of "-". Raises ConfigError for one that cannot hold vectors of the precision."""
    array: Format = "npz" if precision == "int8" else "npy"
    if out == "-":
        return "jsonl"
    for known in ("parquet", "arrow", "jsonl", array):
        if out.endswith(f".{known}"):
            if ids and known == array:
                raise ConfigError(f"{out!r} holds numbers alone: to keep ids, end it in .parquet, .arrow or .jsonl")
            return known
    raise ConfigError(
        f"cannot write {precision} vectors to {out!r}: end it in .{array} or .jsonl, or in .parquet or .arrow, or use "
        "- for JSONL; a folder of shards ends in /"
    )


def write_npy(path: Path, chunks: Iterator[Encoded], task: str | None) -> None:
    """An array [N, D], as of `numpy.save`; the task is not told."""
    rows, first = 0, next(chunks)

    def header() -> None:
        shape = (rows, first.vectors.shape[1])
        dtype = np.lib.format.dtype_to_descr(first.vectors.dtype)
        np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})

    with open(path, "wb") as file:
        header()
        begin = file.tell()
        for chunk in chain([first], chunks):
            file.write(np.ascontiguousarray(chunk.vectors).data)
            rows += len(chunk.rows)
        file.seek(0)
        header()  # numpy leaves room in it for any number of rows
        assert file.tell() == begin


def write_npz(path: Path, chunks: Iterator[Encoded], task: str | None) -> None:
    """Int8 vectors as `numpy.savez` writes them: "codes" [N, D], "scales" [N] and, if there is one, "task"."""
    rows = width = 0
    # without a name, so that they are gone with this process however it ends
    with tempfile.TemporaryFile(dir=path.parent) as codes, tempfile.TemporaryFile(dir=path.parent) as scales:
        for chunk in chunks:
            assert chunk.scales is not None
            codes.write(np.ascontiguousarray(chunk.vectors).data)
            scales.write(chunk.scales.astype(np.float32).data)
            rows, width = rows + len(chunk.rows), chunk.vectors.shape[1]
        codes.flush()
        scales.flush()
        arrays: dict[str, Any] = {
            "codes": np.memmap(codes, np.int8, "r", shape=(rows, width)),
            "scales": np.memmap(scales, np.float32, "r", shape=(rows,)),
        }
        with open(path, "wb") as file:  # by its name, numpy would add an ending
            np.savez(file, allow_pickle=False, **arrays, **({"task": np.array(task)} if task else {}))


def write_jsonl(path: Path, chunks: Iterator[Encoded], task: str | None) -> None:
    """Objects as of `write_lines`."""
    with open(path, "w", encoding="utf-8") as lines:
        write_lines(lines, chunks, task)


def write_lines(lines: IO[str], chunks: Iterable[Encoded], task: str | None) -> None:
    """JSON objects with "text" or "id", "vector" and, where there are, "scale" and "task"."""
    asked = f', "task": {json.dumps(task)}' if task else ""
    for chunk in chunks:
        for i, (row, vector) in enumerate(zip(chunk.rows, chunk.vectors, strict=True)):
            name, value = _named(row)
            numbers = ",".join(vector.astype(str))  # the shortest text that reads back as the same number
            scale = "" if chunk.scales is None else f', "scale": {chunk.scales[i]!s}'
            lines.write(f'{{"{name}": {json.dumps(value, ensure_ascii=False)}, "vector": [{numbers}]{scale}{asked}}}\n')


def write_arrow(path: Path, chunks: Iterator[Encoded], task: str | None) -> None:
    """An Arrow IPC file with the columns of `_schema`."""
    import pyarrow as pa

    first = next(chunks)
    schema = _schema(first, task)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for chunk in chain([first], chunks):
            writer.write_batch(_batch(chunk, schema))


def write_parquet(path: Path, chunks: Iterator[Encoded], task: str | None) -> None:
    """A Parquet file with the columns of `_schema`."""
    import pyarrow.parquet as pq

    first = next(chunks)
    schema = _schema(first, task)
    # Parquet has no numbers of a byte: four bytes each, unless they point into a dictionary of 256
    bytes_each: Any = ["vector.list.element"] if first.vectors.itemsize == 1 else False
    with pq.ParquetWriter(path, schema, use_dictionary=bytes_each, write_statistics=schema.names[:1]) as writer:
        for chunk in chain([first], chunks):
            writer.write_batch(_batch(chunk, schema))


WRITERS: dict[Format, Write] = {
    "parquet": write_parquet,
    "arrow": write_arrow,
    "npy": write_npy,
    "npz": write_npz,
    "jsonl": write_jsonl,
}


def _named(row: Row) -> tuple[str, str | int]:
    """What a row is told apart by: its id if it has one, else its text."""
    return ("text", row.text) if row.id is None else ("id", row.id)


def _schema(chunk: Encoded, task: str | None) -> pa.Schema:
    """Columns "text" or "id", "vector" as lists of one length and, in int8, "scale"; the task is in the metadata."""
    import pyarrow as pa

    name, value = _named(chunk.rows[0])
    numbers = pa.list_(pa.from_numpy_dtype(chunk.vectors.dtype), chunk.vectors.shape[1])
    fields = [pa.field(name, pa.int64() if isinstance(value, int) else pa.string()), pa.field("vector", numbers)]
    fields += [] if chunk.scales is None else [pa.field("scale", pa.float32())]
    return pa.schema(fields, metadata={"task": task} if task else None)


def _batch(chunk: Encoded, schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    names = pa.array([_named(row)[1] for row in chunk.rows], schema.types[0])
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(chunk.vectors.reshape(-1)), chunk.vectors.shape[1])
    scales = [] if chunk.scales is None else [pa.array(chunk.scales, pa.float32())]
    return pa.record_batch([names, vectors, *scales], schema=schema)
