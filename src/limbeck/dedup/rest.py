"""The input without its duplicates: its lines or rows as they are, all fields of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from limbeck.encoding.reading import Inputs, raw_lines
from limbeck.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pyarrow as pa


def check_rest(inputs: Inputs, out: str) -> None:
    """Raise ConfigError where the input cannot be read again, or the output has no name that goes with it."""
    for file in inputs.files:
        if not Path(file).is_file():
            raise ConfigError(
                "--kept reads the input again, and standard input or a pipe cannot be: write it to a file first"
            )
    if out == "-" or Path(out).is_dir():
        raise ConfigError(f"--kept is a file, got {out!r}")
    if (inputs.kind == "parquet") != out.endswith(".parquet"):
        wanted = "ends in .parquet, as its input does" if inputs.kind == "parquet" else "does not end in .parquet"
        raise ConfigError(f"--kept has the lines or rows of the input as they are, so that its name {wanted}: {out!r}")
    if out.endswith(".gz"):
        raise ConfigError(f"--kept is not packed: leave .gz out of {out!r}")


def write_rest(path: Path, inputs: Inputs, kept: np.ndarray) -> None:
    """Write the rows that are kept. kept: bool [N].

    Raises DataError: another number of rows than before, so that the files have changed; Parquet files whose columns
    differ.
    """
    if inputs.kind == "parquet":
        count = _parquet(path, inputs, kept)
    else:
        count = 0
        with open(path, "wb") as file:
            for count, line in enumerate(raw_lines(inputs), start=1):
                if count <= len(kept) and kept[count - 1]:
                    file.write(line + b"\n")
    if count != len(kept):
        raise DataError(f"the input had {len(kept):,} rows, and has {count:,} now: leave it alone while it is read")


def _parquet(path: Path, inputs: Inputs, kept: np.ndarray) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    done = 0
    with pq.ParquetFile(inputs.files[0]) as first:
        schema = first.schema_arrow
    with pq.ParquetWriter(path, schema) as writer:
        for batch in _batches(inputs):
            if not batch.schema.equals(schema):
                raise DataError("the Parquet files have different columns: name them one by one, or leave --kept out")
            mask = kept[done : done + batch.num_rows]
            if len(mask) == batch.num_rows:
                writer.write_batch(batch.filter(pa.array(mask)))
            done += batch.num_rows
    return done


def _batches(inputs: Inputs) -> Iterator[pa.RecordBatch]:
    import pyarrow.parquet as pq

    for file in inputs.files:
        with pq.ParquetFile(file) as opened:
            yield from opened.iter_batches()
