"""Writing the two tables of a prepared source, its training and its held-out half."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from limbeck.data.examples import Example
from limbeck.data.tables import TableWriter, schema_of
from limbeck.files import sha256_file

Half = Literal["train", "heldout"]
HALVES: tuple[Half, ...] = ("train", "heldout")

_BATCH_ROWS = 1024


@contextmanager
def half_tables(folder: Path, number: int, name: str, kind: str) -> Iterator[dict[Half, TableWriter]]:
    """Open the tables of source `number`, named `name`, for writing; they are whole when the block ends well."""
    stem = f"{number:02d}-{re.sub(r'[^A-Za-z0-9._-]+', '-', name)[:80]}"  # a name may hold a slash, and be long
    writers: dict[Half, TableWriter] = {}
    try:
        for half in HALVES:
            writers[half] = TableWriter(folder / f"{stem}.{half}.arrow", schema_of(kind))
        yield writers
        for writer in writers.values():
            writer.close()
    finally:
        for writer in writers.values():
            writer.abandon()


def described(writers: dict[Half, TableWriter]) -> dict[Half, dict[str, Any]]:
    """What the manifest says of finished tables: half → file, rows, sha256."""
    return {
        half: {"file": writer.path.name, "rows": writer.rows, "sha256": sha256_file(writer.path)}
        for half, writer in writers.items()
    }


class ExampleWriter:
    """Writes examples of one kind to a table, which it gathers into batches."""

    def __init__(self, table: TableWriter, kind: str) -> None:
        """Write to `table`, whose schema is that of `kind`."""
        self._table, self._schema = table, schema_of(kind)
        self._waiting: list[dict[str, Any]] = []

    def write(self, example: Example) -> None:
        """Append an example."""
        self._waiting.append({name: getattr(example, name) for name in self._schema.names})
        if len(self._waiting) >= _BATCH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Hand what is gathered to the table."""
        self._table.write(pa.RecordBatch.from_pylist(self._waiting, self._schema))
        self._waiting = []

    def close(self) -> None:
        """Write what is gathered, and close the table. Raises OSError on a full disk."""
        self.flush()
        self._table.close()

    def abandon(self) -> None:
        """Close the table without finishing it; nothing happens when it is closed."""
        self._table.abandon()
