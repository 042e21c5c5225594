"""The log of a teacher store: one 64-byte record a chunk, each carrying its own checksum.

64 bytes, because such a record never crosses a disk sector: after a power cut it is whole, absent, or zeros.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import xxhash

from limbeck.errors import StoreError

_BODY = struct.Struct("<8sQQ16s16s")
_CHECK = struct.Struct("<Q")
_MAGIC = b"limbeck1"
COMMIT_BYTES = _BODY.size + _CHECK.size


@dataclass(frozen=True, slots=True)
class Commit:
    """One acknowledged chunk: rows first … first + count − 1, and the checksums (xxh3-128) of their bytes."""

    first: int
    count: int
    vectors: bytes
    keys: bytes

    @property
    def end(self) -> int:
        """The row after the last."""
        return self.first + self.count

    def pack(self) -> bytes:
        """64 bytes."""
        body = _BODY.pack(_MAGIC, self.first, self.count, self.vectors, self.keys)
        return body + _CHECK.pack(xxhash.xxh3_64_intdigest(body))


def parse(data: bytes, *, expected_first: int, name: str) -> list[Commit]:
    """Read records that follow each other from row `expected_first` on, leaving out a torn last one.

    Raises:
        StoreError: a record that was once whole is damaged. `name` is the file, for the message.
    """
    commits: list[Commit] = []
    whole = len(data) // COMMIT_BYTES
    for i in range(whole):
        record = data[i * COMMIT_BYTES : (i + 1) * COMMIT_BYTES]
        if i == whole - 1 and not any(record):
            break  # space was given to the file, then the power went: never acknowledged
        commit = _unpack(record)
        if commit is None or commit.first != expected_first:
            raise StoreError(
                f"{name} is damaged at chunk {i} of the {whole} read: expected the record of a chunk that starts at "
                f"row {expected_first}, got other bytes; restore the folder from a copy, or delete it and the texts "
                "are taught again"
            )
        commits.append(commit)
        expected_first = commit.end
    return commits


def checksum(data: memoryview | bytes) -> bytes:
    """xxh3-128: finds rot and torn writes at the speed of memory."""
    return xxhash.xxh3_128_digest(data)


def _unpack(record: bytes) -> Commit | None:
    body = record[: _BODY.size]
    (check,) = _CHECK.unpack(record[_BODY.size :])
    magic, first, count, vectors, keys = _BODY.unpack(body)
    if magic != _MAGIC or check != xxhash.xxh3_64_intdigest(body):
        return None
    return Commit(first, count, vectors, keys)
