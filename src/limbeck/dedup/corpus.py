"""Texts as they are compared: each different one once, its vector on disk, its bits in memory.

Legend: `N` rows read, `T` different texts, `D` dims, `B` bits.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limbeck.compress import BitArray, to_bits
from limbeck.encoding.reading import Id, Row
from limbeck.encoding.vectors import Model, Task, checked_dim, settled_task, vectors_of
from limbeck.errors import ConfigError, DataError
from limbeck.model.stream import CHUNK, chunks

IntArray = NDArray[np.int64]

TASK = "text-matching"
BITS = 256  # of a vector, at most: more make the join slower, and hardly surer


class Spool:
    """Rows on disk, any of which can be read again: id and text, in a file without a name."""

    def __init__(self, folder: Path | None) -> None:
        """In `folder`, or where temporary files go."""
        self._file = tempfile.TemporaryFile(dir=folder)
        self._starts = array("Q", [0])

    def __len__(self) -> int:
        """Rows so far."""
        return len(self._starts) - 1

    def add(self, row: Row) -> None:
        """Take the next row."""
        line = json.dumps([row.id, row.text]).encode()
        self._file.write(line)
        self._starts.append(self._starts[-1] + len(line))

    def flush(self) -> None:
        """Make what was added readable."""
        self._file.flush()

    def __getitem__(self, number: int) -> tuple[Id | None, str]:
        """The id and the text of a row."""
        start = self._starts[number]
        id, text = json.loads(os.pread(self._file.fileno(), self._starts[number + 1] - start, start))
        return id, text

    def close(self) -> None:
        """Let go of the disk."""
        self._file.close()


@dataclass(frozen=True)
class Corpus:
    """What is known of the texts while they are compared."""

    rows: Spool  # N
    text_of: IntArray  # [N]: the number of each row's text; texts are numbered as they first come
    first_row: IntArray  # [T]: where each came first
    lengths: IntArray  # [T], in characters
    vectors: np.ndarray  # float16 [T, D], of length 1: a memory map
    bits: BitArray  # [T, B / 8], of the first dims
    task: Task
    truncated: int  # texts that the model cut

    def __len__(self) -> int:
        """T."""
        return len(self.first_row)

    def text(self, number: int) -> str:
        """A text, by its number."""
        return self.rows[int(self.first_row[number])][1]

    def cosines(self, left: IntArray, right: IntArray) -> NDArray[np.float32]:
        """Of pairs of texts [P], in blocks. → [P], −1 … 1."""
        found = np.empty(len(left), np.float32)
        step = max(1, (1 << 22) // self.vectors.shape[1])  # 16 MiB on either side
        for start in range(0, len(left), step):
            i, j = left[start : start + step], right[start : start + step]
            a, b = self.vectors[i].astype(np.float32), self.vectors[j].astype(np.float32)
            found[start : start + step] = np.einsum("pd,pd->p", a, b)
        return np.clip(found, -1, 1, out=found)


@contextmanager
def read_corpus(
    model: Model,
    rows: Iterator[Row],
    *,
    task: Task = None,
    dim: int | None = None,
    folder: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Corpus]:
    """Encode texts, each different one once, and yield them; their files go when the block ends, or the process.

    Texts are the same here if they are so byte for byte, told by a hash of 64 bits: among a million of them the chance
    that any two are taken for one is 3 in a hundred million.

    Args:
        model: as `limbeck.load` gives it.
        rows: at least one; all with ids, which differ, or none.
        task: the adapter, or a blend; None = text-matching where the model has it. "auto" is settled by the first
            16,384 texts.
        dim: of the vectors; None = all.
        folder: for the temporary files, 2 · D bytes a text and the texts; None = where temporary files go.
        progress: called with the number of rows done since the last call.

    Raises:
        ConfigError: as `settled_task` and `checked_dim`; fewer than 8 dims.
        DataError: an id that came before. As `read_rows`, and as `vectors_of`.
    """
    width = checked_dim(model, dim)
    if width < 8:
        raise ConfigError(f"texts are compared by 8 dims or more, got {width}")
    bits = min(BITS, width // 8 * 8)
    first = list(islice(rows, CHUNK if task == "auto" else 1))
    used = settled_task(model, task, [row.text for row in first], usual=TASK)
    texts, ids = _Numbers(), _Numbers()
    text_of, first_row, lengths = array("q"), array("q"), array("q")
    packed: list[BitArray] = []
    truncated = 0
    spool = Spool(folder)
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            for chunk in chunks(chain(first, rows), CHUNK):
                new: list[Row] = []
                for row in chunk:
                    if row.id is not None:
                        _check_id(row, ids)
                    number, is_new = texts.add(row.text)
                    if is_new:
                        new.append(row)
                        first_row.append(len(spool))
                        lengths.append(len(row.text))
                    text_of.append(number)
                    spool.add(row)
                if new:
                    vectors = vectors_of(
                        model, [row.text for row in new], [row.place for row in new], task=used, dim=dim,
                        progress=progress,
                    )  # fmt: skip
                    file.write(np.ascontiguousarray(vectors, np.float16).data)
                    packed.append(to_bits(vectors[:, :bits]))
                    truncated += model.truncated
                if progress:
                    progress(len(chunk) - len(new))
            spool.flush()
            file.flush()
            yield Corpus(
                rows=spool,
                text_of=np.array(text_of, np.int64),
                first_row=np.array(first_row, np.int64),
                lengths=np.array(lengths, np.int64),
                vectors=np.memmap(file, np.float16, "r", shape=(len(texts), width)),
                bits=np.concatenate(packed),
                task=used,
                truncated=truncated,
            )
        finally:
            spool.close()


class _Numbers:
    """Numbers different things in the order in which they come, by their hashes."""

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._known)

    def add(self, thing: str) -> tuple[int, bool]:
        """The number, and whether it is a new one."""
        digest = hashlib.blake2b(thing.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        before = len(self._known)
        number = self._known.setdefault(digest, before)
        return number, number == before


def _check_id(row: Row, ids: _Numbers) -> None:
    if isinstance(row.id, str) and any("\ud800" <= letter <= "\udfff" for letter in row.id):
        raise DataError(f"{row.place}: the id {row.id!r} is not valid Unicode")
    if not ids.add(str(row.id))[1]:
        raise DataError(f"{row.place}: the id {row.id!r} came before: ids name the rows, and must differ")
