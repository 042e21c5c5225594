"""Teacher vectors on disk: fp16, append-only, keyed by (teacher, instruction, text), shared between runs.

    <root>/<teacher>-<hash>/
        store.json     format, fingerprint of the teacher, dims, and an id given at birth
        vectors.f16    row r at byte r·D·2, little-endian fp16, nothing else
        keys.bin       row r at byte r·16: BLAKE2b-128 of (instruction, text)
        commits.bin    64 bytes a chunk: its rows, and checksums of its vectors, its keys and itself
        lock           held while appending

An append writes vectors and keys, syncs both, and only then writes the chunk's commit. So a row exists when its commit
does, and whatever lies past the last whole commit (after kill −9, a crash or a full disk) is a torn tail: readers never
look at it and the next writer cuts it off. Readers take no lock, because committed bytes never change.

One growing file and not many segments: a row is a place in one memory map, hence the same number for every process and
for ever, and a batch is gathered by one indexing operation however the rows came there.

Legend: N texts or rows asked for, D dims.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import ArrayLike

from limbeck.errors import StoreError, TeacherError
from limbeck.files import read_json, sync_folder, write_json
from limbeck.teacher.checks import Progress, wrong_dim
from limbeck.teacher.commits import COMMIT_BYTES, Commit, checksum, parse
from limbeck.teacher.keys import KEY_BYTES, KeyIndex, first_of_each, keys_from_bytes, text_keys
from limbeck.teacher.pieces import portions

FORMAT = "limbeck teacher store"
VERSION = 1

_HEADER, _VECTORS, _KEYS, _COMMITS = "store.json", "vectors.f16", "keys.bin", "commits.bin"
_FP16 = np.dtype("<f2")
CHUNK = 16_384  # texts
CHUNK_CHARS = 4_000_000
_LOCK_SECONDS = 600  # an append holds the lock for a second; ten minutes of waiting means that somebody hangs


class Encode(Protocol):
    """What teaches a store: `TeacherModel.encode`, or any function of that shape."""

    def __call__(self, texts: Sequence[str], *, instruction: str, progress: Progress | None) -> np.ndarray:
        """Encode N texts to [N, D], in order."""
        ...


class TeacherStore:
    """Vectors of one teacher. Open it with `TeacherStore.open`.

    Any number of processes may read and teach at once. Within a process, `gather` may be called from any thread; `find`
    and `teach` from one at a time.
    """

    def __init__(self, path: Path, *, fingerprint: str, dim: int) -> None:
        """Read an existing store in the folder `path`; see `open`."""
        self.path = path
        self.fingerprint = fingerprint
        self.dim = dim
        self.id = self._read_header()
        self._commits: list[Commit] = []
        self._index = KeyIndex()
        self._vectors = np.empty((0, dim), dtype=_FP16)
        self.refresh()

    @classmethod
    def open(cls, root: str | Path, *, fingerprint: str, dim: int) -> TeacherStore:
        """Open the store of a teacher under `root`, made on first use.

        Args:
            root: folder that holds the stores of all teachers.
            fingerprint: `TeacherModel.fingerprint`, what its vectors depend on.
            dim: D.

        Raises:
            StoreError: not a store, another teacher's, damaged, unreadable, or written by a newer limbeck.
        """
        # dims are part of the name: a wrong teacher.dim, once set right, does not meet the store it left behind
        digest = hashlib.sha256(f"{fingerprint}\n{dim}".encode()).hexdigest()[:16]
        name = re.sub(r"[^a-z0-9]+", "-", fingerprint.lower()).strip("-")[:40]
        path = Path(root) / f"{name}-{digest}"
        with _os_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            if not (path / _HEADER).exists():
                _create(path, fingerprint=fingerprint, dim=dim)
        return cls(path, fingerprint=fingerprint, dim=dim)

    def __len__(self) -> int:
        """Rows known so far."""
        return self._commits[-1].end if self._commits else 0

    def __repr__(self) -> str:
        """Where it is and how much it holds."""
        return f"TeacherStore({str(self.path)!r}, rows={len(self)}, dim={self.dim})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the place, not the vectors: a worker process opens its own map."""
        return partial(TeacherStore, fingerprint=self.fingerprint, dim=self.dim), (self.path,)

    @property
    def bytes_per_row(self) -> int:
        """Bytes on disk of one text."""
        return self._row_bytes + KEY_BYTES

    def find(self, texts: Sequence[str], instruction: str = "") -> np.ndarray:
        """int64 [N]: the row of each text under this instruction, −1 where it is unknown.

        A row stays a text's own for as long as the store exists (`id` tells stores apart), so it can be saved.
        """
        self.refresh()
        return self._index.find(text_keys(texts, instruction))

    def gather(self, rows: ArrayLike) -> np.ndarray:
        """float16 [N, D]: a copy of the vectors of these rows, in this order, repeats allowed.

        Raises:
            StoreError: a row that the store does not have.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        if not len(wanted):
            return np.empty((0, self.dim), dtype=np.float16)
        low, high = int(wanted.min()), int(wanted.max())
        if high >= len(self._vectors):
            self.refresh()  # another process may have taught it since
        if low < 0 or high >= len(self._vectors):
            raise StoreError(
                f"store {self.path} has rows 0 to {len(self) - 1}, asked for {low if low < 0 else high}: rows saved by "
                "a run do not outlive its store; teach the texts again"
            )
        return self._vectors[wanted]

    def teach(
        self,
        texts: Sequence[str],
        instruction: str,
        encode: Encode,
        *,
        chunk: int = CHUNK,
        chunk_chars: int = CHUNK_CHARS,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Make sure that every text has a vector; encode only those that have none, each once.

        Args:
            texts: [N], repeats allowed.
            instruction: part of each text's key, and passed on to `encode`.
            encode: called with each chunk of unknown texts; not called at all when every text is known.
            chunk: texts that are encoded and then made durable together: what a kill costs. Large, because `encode`
                sorts by length within a chunk.
            chunk_chars: a chunk ends here too, so that long texts do not make it last for hours.
            progress: called with the number of further texts done, at once with those already known.

        Returns:
            int64 [N], the row of each text.

        Raises:
            DataError: a text is not valid Unicode.
            TeacherError: `encode` gives another number of vectors, other dims, or values that fp16 cannot hold.
            StoreError: the disk is full, or the store cannot be written; what was acknowledged stays.
        """
        keys = text_keys(texts, instruction)
        self.refresh()
        unknown = np.flatnonzero(self._index.find(keys) < 0)
        # In the order given, not by length: texts that are read together then lie together on disk, and the time left
        # that a progress bar shows is true from the start.
        unknown = unknown[first_of_each(keys[unknown])]
        report = progress or (lambda _: None)
        report(len(texts) - len(unknown))
        for part in portions(unknown, texts, chunk, chunk_chars):
            self.refresh()
            todo = part[self._index.find(keys[part]) < 0]  # another process may teach the same texts
            report(len(part) - len(todo))
            if len(todo):
                vectors = encode([texts[int(i)] for i in todo], instruction=instruction, progress=progress)
                self._append(keys[todo], as_fp16(vectors, len(todo), dim=self.dim, teacher=self.fingerprint))
        return self._index.find(keys)

    def unknown(
        self,
        texts: Sequence[str],
        instruction: str,
        planned: KeyIndex,
        *,
        chunk: int = CHUNK,
        chunk_chars: int = CHUNK_CHARS,
    ) -> Iterator[list[str]]:
        """The chunks that `teach` would encode, for who encodes them elsewhere and gives them to `add`, in this order.

        Args:
            texts: [N], repeats allowed.
            instruction: part of each text's key.
            planned: texts that were yielded before are not yielded again; those yielded now are added.
            chunk: as of `teach`.
            chunk_chars: as of `teach`.
        """
        keys = text_keys(texts, instruction)
        self.refresh()
        new = np.flatnonzero((self._index.find(keys) < 0) & (planned.find(keys) < 0))
        new = new[first_of_each(keys[new])]
        if len(new):
            planned.add(keys[new], 0)
        for part in portions(new, texts, chunk, chunk_chars):
            yield [texts[int(i)] for i in part]

    def add(self, texts: Sequence[str], instruction: str, vectors: np.ndarray) -> None:
        """Make vectors [N, D] durable, but for texts that have one. Texts: no repeats. Raises as `teach`."""
        half = as_fp16(vectors, len(texts), dim=self.dim, teacher=self.fingerprint)
        self._append(text_keys(texts, instruction), half)

    def refresh(self) -> None:
        """Take in what other processes appended. Costs one look at a file size when there is nothing new.

        Raises:
            StoreError: a file is damaged, cut short, gone or unreadable.
        """
        path = self.path / _COMMITS
        with _os_errors(path), open(path, "rb") as file:
            read = len(self._commits) * COMMIT_BYTES
            size = os.fstat(file.fileno()).st_size
            if size < read:
                raise StoreError(_cut(path, read, size))
            file.seek(read)
            new = parse(file.read(), expected_first=len(self), name=str(path))
        if new:
            self._take_in(new)

    def verify(self) -> int:
        """Read every vector and key and compare with the checksums written beside them.

        Returns:
            The number of rows, all intact.

        Raises:
            StoreError: a byte changed since it was acknowledged; names the file and the rows.
        """
        self.refresh()
        for commit in self._commits:
            self._read_keys([commit])
            if checksum(self._vectors[commit.first : commit.end].data.cast("B")) != commit.vectors:
                raise StoreError(_rotten(self.path / _VECTORS, commit))
        return len(self)

    @property
    def _row_bytes(self) -> int:
        return self.dim * _FP16.itemsize

    def _read_header(self) -> str:
        path = self.path / _HEADER
        with _os_errors(path):
            try:
                header = read_json(path)
            except ValueError as error:
                raise StoreError(f"not a teacher store: {error}") from None
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise StoreError(f"{path} does not describe a {FORMAT}: set teacher.store to another folder")
        if header.get("version") != VERSION:
            raise StoreError(
                f"{path} has format version {header.get('version')}, this limbeck reads version {VERSION}: upgrade "
                "limbeck, or set teacher.store to another folder"
            )
        for field, expected in (("fingerprint", self.fingerprint), ("dim", self.dim), ("dtype", "float16")):
            if header.get(field) != expected:
                raise StoreError(
                    f"{path} is of another teacher: expected {field} {expected!r}, got {header.get(field)!r}; set "
                    "teacher.store to another folder, or delete this one"
                )
        return str(header.get("id"))

    def _take_in(self, new: list[Commit]) -> None:
        keys = self._read_keys(new)
        rows = new[-1].end
        path = self.path / _VECTORS
        with _os_errors(path):
            size = path.stat().st_size
            if size < rows * self._row_bytes:
                raise StoreError(_cut(path, rows * self._row_bytes, size))
            vectors = np.memmap(path, dtype=_FP16, mode="r", shape=(rows, self.dim))
        self._index.add(keys, new[0].first)
        self._commits.extend(new)
        self._vectors = vectors.view(np.ndarray)  # np.memmap looks at its base at every indexing

    def _read_keys(self, commits: list[Commit]) -> np.ndarray:
        """uint64 [rows, 2] of commits that follow each other, checked."""
        first, end = commits[0].first, commits[-1].end
        path = self.path / _KEYS
        with _os_errors(path), open(path, "rb") as file:
            file.seek(first * KEY_BYTES)
            data = file.read((end - first) * KEY_BYTES)
        if len(data) < (end - first) * KEY_BYTES:
            raise StoreError(_cut(path, end * KEY_BYTES, first * KEY_BYTES + len(data)))
        view = memoryview(data)
        for commit in commits:
            if checksum(view[(commit.first - first) * KEY_BYTES : (commit.end - first) * KEY_BYTES]) != commit.keys:
                raise StoreError(_rotten(path, commit))
        return keys_from_bytes(data)

    def _append(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        """Make rows durable. keys: uint64 [N, 2], no repeats. vectors: fp16 [N, D]."""
        with _locked(self.path):
            self.refresh()
            new = self._index.find(keys) < 0
            if not new.all():  # another process was quicker
                keys, vectors = keys[new], vectors[new]
            if len(keys):
                self._write(memoryview(keys.tobytes()), np.ascontiguousarray(vectors).data.cast("B"), len(keys))
            self.refresh()

    def _write(self, keys: memoryview, vectors: memoryview, count: int) -> None:
        first = len(self)
        commit = Commit(first, count, checksum(vectors), checksum(keys))
        pieces = (
            (self.path / _VECTORS, first * self._row_bytes, vectors),
            (self.path / _KEYS, first * KEY_BYTES, keys),
            (self.path / _COMMITS, len(self._commits) * COMMIT_BYTES, memoryview(commit.pack())),  # last: it counts
        )
        for path, offset, data in pieces:
            with _os_errors(path, kept=first):
                _replace_tail(path, offset, data)


def as_fp16(vectors: np.ndarray, expected: int, *, dim: int, teacher: str) -> np.ndarray:
    """A teacher's answer as it is stored, float16 [N, D]. Raises TeacherError: another shape, or not to be held so."""
    if vectors.ndim != 2 or len(vectors) != expected:
        raise TeacherError(f"teacher {teacher}: expected {expected} vectors, got an array of {vectors.shape}")
    if vectors.shape[1] != dim:
        raise TeacherError(wrong_dim(teacher, expected=dim, got=vectors.shape[1]))
    with np.errstate(over="ignore"):  # an overflow is infinite, and refused below
        half = np.ascontiguousarray(vectors, dtype=_FP16)
    if not np.isfinite(half).all():
        raise TeacherError(
            f"teacher {teacher}: vectors hold NaN, infinity or values over 65,504, which fp16 cannot hold: they must "
            "be of unit length"
        )
    return half


def _create(path: Path, *, fingerprint: str, dim: int) -> None:
    with _locked(path):
        if (path / _HEADER).exists():  # another process was quicker
            return
        for name in (_VECTORS, _KEYS, _COMMITS):
            file = path / name
            if file.exists() and file.stat().st_size:
                raise StoreError(
                    f"{path / _HEADER} is missing beside {name}: restore it, or delete the folder to teach again"
                )
            file.touch()
        sync_folder(path)
        header = {"format": FORMAT, "version": VERSION, "fingerprint": fingerprint, "dim": dim, "dtype": "float16"}
        write_json(path / _HEADER, header | {"id": uuid.uuid4().hex})  # last: with it the store exists


def _replace_tail(path: Path, offset: int, data: memoryview) -> None:
    """Write `data` at `offset`, durably, in place of whatever a writer that died left there."""
    with open(path, "r+b", buffering=0) as file:
        if os.fstat(file.fileno()).st_size < offset:
            raise StoreError(_cut(path, offset, os.fstat(file.fileno()).st_size))
        file.truncate(offset)
        file.seek(offset)
        try:
            while data:
                data = data[file.write(data) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(offset)  # give the space back: others may need it
            raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the store's lock. The kernel lets it go when its holder dies."""
    lock = FileLock(path / "lock", timeout=_LOCK_SECONDS)
    with _os_errors(path / "lock"):
        try:
            lock.acquire()
        except Timeout:
            raise StoreError(
                f"{path / 'lock'} has been held by another process for {_LOCK_SECONDS} s: end that process"
            ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _os_errors(path: Path, *, kept: int | None = None) -> Iterator[None]:
    """Turn what the system refuses into a StoreError that names the file and what to do."""
    try:
        yield
    except OSError as error:
        raise StoreError(_explain(error, path, kept)) from error


def _explain(error: OSError, path: Path, kept: int | None) -> str:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        rows = "" if kept is None else f"; the {kept} rows taught before are kept"
        return f"no space to write {path} ({reason}){rows}: free some, or move teacher.store, and run again to go on"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"may not open {path} ({reason}): get the right to read and write it, or set teacher.store elsewhere"
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST):
        return f"{path} is missing or not what it should be ({reason}): restore it, or set teacher.store elsewhere"
    return f"cannot use {path}: {reason}"


def _cut(path: Path, expected: int, got: int) -> str:
    return (
        f"{path} was cut short: expected at least {expected} bytes, got {got}; restore the folder from a copy, or "
        f"delete {path.parent} and the texts are taught again"
    )


def _rotten(path: Path, commit: Commit) -> str:
    return (
        f"{path} is damaged: rows {commit.first} to {commit.end - 1} do not match their checksum; restore the folder "
        f"from a copy, or delete {path.parent} and the texts are taught again"
    )
